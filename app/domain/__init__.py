"""What a destination is and what may be said of it; knows no database, queue, web server or storage SDK."""
