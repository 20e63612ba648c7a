"""Which certificates are trusted where we are the client: of customers' stores, of the platform and of its source,
and of the service that a command asks."""

import ssl

import certifi


def tls_context() -> ssl.SSLContext:
    """Checks certificates against the system's authorities (SSL_CERT_FILE is honoured) and certifi's."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
