#!/usr/bin/env python3
"""Check that a shared library exports exactly the functions that its headers declare.

python exports.py FOLDER_OF_HEADERS LIBRARY       (.so of ELF with 64 bits, or .dll of PE32+; no other tool is needed)
"""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path


def declared(headers: Path) -> set[str]:
    """Return the names of the functions that are marked FASTGDML_API."""
    return {
        name
        for header in headers.glob("*.h")
        for name in re.findall(r"^FASTGDML_API\b[^;(]*?(\w+)\(", header.read_text(), re.MULTILINE)
    }


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()


def exported_by_elf(data: bytes) -> set[str]:
    """Return the global symbols that the dynamic table defines."""
    (at,) = struct.unpack_from("<Q", data, 0x28)
    size, n = struct.unpack_from("<HH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, at + i * size) for i in range(n)]
    names = set()
    for section in sections:
        if section[1] != 11:  # SHT_DYNSYM
            continue
        strings = sections[section[6]][4]
        for place in range(section[4], section[4] + section[5], 24):
            name, info, _, defined_in, _, _ = struct.unpack_from("<IBBHQQ", data, place)
            if defined_in and info >> 4 in (1, 2):  # global or weak
                names.add(_text(data, strings + name))
    return names - {"_init", "_fini", "_edata", "_end", "__bss_start"}


def exported_by_pe(data: bytes) -> set[str]:
    """Return the names in the export directory."""
    (pe,) = struct.unpack_from("<I", data, 0x3C)
    n_sections, optional = struct.unpack_from("<H", data, pe + 6)[0], struct.unpack_from("<H", data, pe + 20)[0]
    sections = [struct.unpack_from("<IIII", data, pe + 24 + optional + 40 * i + 8) for i in range(n_sections)]

    def place(address: int) -> int:
        for size, start, raw, offset in sections:
            if start <= address < start + max(size, raw):
                return address - start + offset
        raise ValueError(f"address {address:x} lies in no section")

    directory = place(struct.unpack_from("<I", data, pe + 24 + 112)[0])
    n, _, table = struct.unpack_from("<III", data, directory + 24)
    addresses = struct.unpack_from(f"<{n}I", data, place(table))
    return {_text(data, place(address)) for address in addresses}


def main() -> None:
    """Compare, and say what is too much or missing."""
    headers, library = map(Path, sys.argv[1:])
    data = library.read_bytes()
    exported = exported_by_pe(data) if data.startswith(b"MZ") else exported_by_elf(data)
    wanted = declared(headers)
    if not wanted or exported != wanted:
        sys.exit(f"{library.name} lacks {sorted(wanted - exported)} and has {sorted(exported - wanted)} too much")
    print(f"{library.name} exports the {len(wanted)} functions of its headers, nothing else")


if __name__ == "__main__":
    main()
