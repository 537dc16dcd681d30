"""Downloads one file of an index and can go on where it was broken off, which pip cannot.

The address, the login, the proxy and the certificates are pip's own: its parts find and fetch, this only asks for the
missing bytes. Arguments: the file's name and size, then those of `pip download`. Ends with 3 where this pip has other
parts or the file lies elsewhere, and with 4 where the network failed; what was fetched then stays in `NAME.part`.
"""

import os
import sys
import time

UNKNOWN, BROKEN = 3, 4
PARENT = os.getppid()


def find(command, arguments, name):
    """pip's session, and where the file is."""
    from pip._internal.cli.cmdoptions import make_target_python

    options, (wanted,) = command.parse_args(arguments)
    session = command.get_default_session(options)
    finder = command._build_package_finder(options, session, target_python=make_target_python(options))
    candidates = finder.find_all_candidates(wanted.split("==")[0])
    links = [candidate.link for candidate in candidates if candidate.link.filename == name]
    if not links or not links[0].url.startswith("http"):
        raise LookupError(f"{name} lies in no index")
    return session, links[0].url.split("#")[0]


def go_on(session, url, part, size):
    """Asks for what is missing, and appends it."""
    have = os.path.getsize(part) if os.path.exists(part) else 0
    if have < size:
        headers = {"Accept-Encoding": "identity", "Cache-Control": "no-store"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with session.get(url, headers=headers, stream=True, timeout=30) as response:
            response.raise_for_status()
            # A server that does not know ranges sends all of it.
            with open(part, "ab" if response.status_code == 206 else "wb") as file:
                for chunk in response.raw.stream(1 << 20, decode_content=False):
                    file.write(chunk)
                    if os.getppid() != PARENT:
                        # Whoever started this is gone, and the next one must find the file at rest.
                        sys.exit(BROKEN)
    if os.path.getsize(part) < size:
        raise EOFError(f"{os.path.getsize(part)} of {size} bytes came")


def fetch(name, size, arguments):
    """Fetches, and answers how to end."""
    try:
        from pip._internal.commands import create_command

        command = create_command("download")
        with command.main_context():
            session, url = find(command, arguments, name)
            for attempt in range(6):
                try:
                    time.sleep(attempt)
                    go_on(session, url, name + ".part", size)
                    os.rename(name + ".part", name)
                    return 0
                except Exception as error:
                    print(repr(error), file=sys.stderr)
            return BROKEN
    except Exception as error:
        print(repr(error), file=sys.stderr)
        return UNKNOWN


sys.exit(fetch(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
