"""Storage as a verification sees it: one port, and one file a provider with its SDK and its fault table."""
