"""The S3 dialect, for Amazon S3, S3-compatible services and Google Cloud Storage with HMAC keys, by aioboto3."""
