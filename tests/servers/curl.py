"""Stands for curl where a machine has none: what the documents' examples ask of it, and nothing else."""

import argparse
import sys
import urllib.error
import urllib.parse
import urllib.request


def main() -> int:
    """Send one request as the arguments say and print the answer's body; 22 where there is no answer."""
    parser = argparse.ArgumentParser("curl")
    parser.add_argument("url")
    parser.add_argument("--request", "-X")
    parser.add_argument("--header", "-H", action="append", default=[])
    parser.add_argument("--data", "-d", action="append", default=[])
    parser.add_argument("--data-urlencode", action="append", default=[])
    given = parser.parse_args()
    data = [sys.stdin.read().replace("\n", "") if each == "@-" else each for each in given.data]
    encoded = [each.split("=", 1) for each in given.data_urlencode]
    body = "&".join([*data, *(f"{name}={urllib.parse.quote_plus(value)}" for name, value in encoded)])
    request = urllib.request.Request(given.url, body.encode() if body else None, method=given.request)
    for header in given.header:
        name, _, value = header.partition(":")
        request.add_header(name, value.strip())
    try:
        with urllib.request.urlopen(request) as answer:
            sys.stdout.write(answer.read().decode())
    except urllib.error.HTTPError as refused:
        with refused:
            sys.stdout.write(refused.read().decode())
    except OSError as error:
        sys.stderr.write(f"curl: {error}\n")
        return 22
    return 0


if __name__ == "__main__":
    sys.exit(main())
