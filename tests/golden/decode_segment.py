#!/usr/bin/python3
"""A second decoder of segments, written from docs/formats/segment.md alone.

decode_segment.py FILE            says what is in a segment, or why it is refused
decode_segment.py --check DIR     compares that with the .expect beside each .seg

It reads the whole file at once and looks at everything: it is there to be compared with, not to
be fast. Needs the Debian packages python3-zstandard and python3-xxhash.
"""

import hashlib
import itertools
import pathlib
import struct
import sys
import uuid

try:
    import xxhash
    import zstandard
except ImportError as missing:
    print(f"skipped: {missing} (packages python3-zstandard and python3-xxhash)")
    sys.exit(77)

PAGE = 4096
CHUNK = 65536
FRAME_RAW_MAX = 1 << 20
VOLUME_MAX = 1 << 50
FRAMES_MAX, BLOCKS_MAX, CHUNKS_MAX, POINTS_MAX = 1 << 20, 1 << 16, 1 << 20, 1 << 16
INDEX_MAX = 1 << 26
SEGMENT_MAX = 1 << 30
RAW_MAX, MANIFEST_RAW_MAX = 1 << 32, 1 << 30
MODE_MAX, TARGET_MAX, VALUE_MAX, VALUE_WITHIN_MAX = 0o7777, 4095, 65536, 2048

CHANGES, SUPPLY = 1, 2
OBJECT, DATA, CHUNK_RECORD, ZERO = 1, 2, 3, 4
NODE, XATTR, NAME, RUN, HOLE = 5, 6, 7, 8, 9
RECORD_SIZE = {OBJECT: 32, DATA: 40, CHUNK_RECORD: 64, ZERO: 32}
TREE_RECORD_SIZE = {NODE: 72, XATTR: 32, NAME: 40, RUN: 40, HOLE: 32}  # without the text
SPACE, TOP = 1, 2
GONE, FILE, DIRECTORY, SYMLINK, CHARACTER_DEVICE, BLOCK_DEVICE = 0, 1, 2, 3, 5, 6
RESYNC, MERGED, GROUP = 1, 2, 4
TREE, PAGES = 1, 2  # the features
KINDS = {CHANGES: "changes", SUPPLY: "supply"}
VOLUME_KINDS = {1: "block", 2: "tree"}
CODECS = {0: "stored", 1: "zstd"}
CONSISTENCIES = {1: "crash", 2: "filesystem", 3: "application", 4: "per-file"}
CUTS = {1: "quiet", 2: "window", 3: "freeze", 4: "command", 5: "files", 6: "snapshot"}
PER_FILE, FILES, SNAPSHOT = 4, 5, 6
NODE_KINDS = {GONE: "gone", FILE: "file", DIRECTORY: "directory", SYMLINK: "symlink", 4: "fifo",
              CHARACTER_DEVICE: "character", BLOCK_DEVICE: "block", 7: "socket"}


class Refused(Exception):
    """A segment, or a part of it, is not given out; kind is "corrupt" or "version"."""

    def __init__(self, kind, why):
        super().__init__(why)
        self.kind = kind


def require(condition, why):
    if not condition:
        raise Refused("corrupt", why)


def xxh3(data):
    return xxhash.xxh3_64_intdigest(data)


def require_zeros(data, where):
    require(not any(data), f"{where}: a reserved byte is not zero")


# --- header and footer ---------------------------------------------------------------------------


def decode_header(data):
    magic, version, size, kind, volume_kind, reserved1, features = struct.unpack_from(
        "<8sHHBB2sQ", data, 0)
    require(magic == b"\x89REPL\r\n\x1a", "header: magic")
    if version != 1:
        raise Refused("version", f"version {version}")
    volume, lineage, from_, to, part, reserved2, created, prev, reserved3, checksum = \
        struct.unpack_from("<16sQQQI4sq32s8sQ", data, 24)
    require(checksum == xxh3(data[:120]), "header: checksum")
    require(size == 128, "header: size")
    require_zeros(reserved1 + reserved2 + reserved3, "header")
    if features & ~(TREE | PAGES):
        raise Refused("version", f"features {features:#x}")
    require(kind in KINDS, "header: kind")
    require(volume_kind in VOLUME_KINDS, "header: volume kind")
    tree = bool(features & TREE)
    require((volume_kind == 2) == tree, "header: the volume kind does not fit the features")
    require(from_ < to, "header: from is not less than to")
    return dict(version=version, kind=kind, volume_kind=volume_kind, tree=tree,
                pages=bool(features & PAGES),
                volume=uuid.UUID(bytes=volume), lineage=lineage, from_=from_, to=to, part=part,
                created=created, prev=prev)


def decode_footer(data, file_size):
    magic, index_offset, frames, blocks, chunks, points, index_xxh3, records, raw_size, size, \
        reserved1, digest, reserved2, checksum = struct.unpack("<8sQIIIIQQQQ16s32s8sQ", data)
    require(magic == b"REPLFOOT", "footer: magic")
    require(checksum == xxh3(data[:120]), "footer: checksum")
    require_zeros(reserved1 + reserved2, "footer")
    require(frames <= FRAMES_MAX and blocks <= BLOCKS_MAX and chunks <= CHUNKS_MAX
            and points <= POINTS_MAX, "footer: a count is over its bound")
    index_size = 32 * frames + 48 * blocks + 40 * chunks + 64 * points
    require(index_size <= INDEX_MAX, "footer: index too large")
    require(size <= SEGMENT_MAX, "footer: file size over its bound")
    require(raw_size <= RAW_MAX, "footer: raw size over its bound")
    require(index_offset >= 128 and index_offset + index_size + 128 == size,
            "footer: the index does not lie right before it")
    require(size == file_size, "footer: file size")
    return dict(index_offset=index_offset, index_size=index_size, frames=frames, blocks=blocks,
                chunks=chunks, points=points, index_xxh3=index_xxh3, records=records,
                raw_size=raw_size, file_size=size, digest=digest)


# --- index -----------------------------------------------------------------------------------------


def decode_frame_entry(data, where):
    offset, stored, raw, checksum, codec, listed, reserved = struct.unpack("<QIIQBB6s", data)
    require_zeros(reserved, where)
    require(listed <= 1, f"{where}: whether its pages are listed")
    require(codec in CODECS, f"{where}: codec")
    require(1 <= raw <= FRAME_RAW_MAX, f"{where}: raw size")
    require(stored >= 1 and (stored == raw if codec == 0 else stored < raw),
            f"{where}: stored size")
    return dict(offset=offset, stored=stored, raw=raw, xxh3=checksum, codec=codec, listed=listed)


def decode_block_entry(data, where):
    entry = decode_frame_entry(data[:32], where)
    entry["first"] = struct.unpack_from("<QQ", data, 32)
    return entry


def decode_chunk_entry(data, _where):
    name, frame, frame_offset = struct.unpack("<32sII", data)
    return dict(name=name, frame=frame, frame_offset=frame_offset)


def decode_point(data, where):
    number, begin, end, consistency, cut, flags, attempts, changed, reserved = struct.unpack(
        "<QqqBBHIQ24s", data)
    require_zeros(reserved, where)
    require(number >= 1, f"{where}: number")
    require(begin <= end, f"{where}: ends before it begins")
    require(consistency in CONSISTENCIES, f"{where}: consistency")
    require(cut in CUTS, f"{where}: cut")
    require((consistency == PER_FILE) == (cut == FILES), f"{where}: consistency and cut")
    require(flags & ~(RESYNC | MERGED | GROUP) == 0, f"{where}: flags")
    require(attempts >= 1, f"{where}: attempts")
    return dict(number=number, begin=begin, end=end, consistency=consistency, cut=cut, flags=flags,
                attempts=attempts, changed=changed)


def decode_index(data, footer):
    tables = {}
    at = footer["index_offset"]
    for name, size, decode in (("frames", 32, decode_frame_entry),
                               ("blocks", 48, decode_block_entry),
                               ("chunks", 40, decode_chunk_entry), ("points", 64, decode_point)):
        tables[name] = []
        for i in range(footer[name]):
            tables[name].append(decode(data[at:at + size], f"{name} {i}"))
            at += size
    return tables


def pages_of(size):
    return (size + PAGE - 1) // PAGE


def check_layout(tables, footer, pages):
    position = 128
    for entry in tables["frames"] + tables["blocks"]:
        require(entry["offset"] == position, "a frame or block does not begin where it should")
        position += entry["stored"]
    require(not any(block["listed"] for block in tables["blocks"]), "a block's pages are listed")
    for frame in tables["frames"]:
        if frame["listed"]:
            require(pages, "a frame's pages are listed, and no feature says so")
            frame["list"] = position
            position += pages_of(frame["raw"]) * 16 + 8
    require(position == footer["index_offset"], "the index does not begin where it should")
    require(sum(frame["raw"] for frame in tables["frames"]) == footer["raw_size"], "raw size")
    require(sum(block["raw"] for block in tables["blocks"]) <= MANIFEST_RAW_MAX,
            "the blocks' raw sizes are over their bound")
    firsts = [block["first"] for block in tables["blocks"]]
    require(firsts == sorted(firsts), "blocks are out of order")


def check_tables(tables, header):
    supply = header["kind"] == SUPPLY
    require(bool(tables["blocks"]) != supply, "blocks do not fit the kind")
    require(not (supply and tables["points"]), "points do not fit the kind")
    for chunk in tables["chunks"]:
        require(chunk["frame"] < len(tables["frames"]), "chunk: frame")
        frame = tables["frames"][chunk["frame"]]
        require(chunk["frame_offset"] + CHUNK <= frame["raw"], "chunk: outside its frame")
    before = header["from_"]
    for i, point in enumerate(tables["points"]):
        last = i == len(tables["points"]) - 1
        require(point["number"] > before, "points are out of order")
        require(bool(point["flags"] & MERGED) != last, "point: merged")
        require(not last or point["number"] == header["to"], "last point is not to")
        require(point["cut"] not in (FILES, SNAPSHOT) or header["tree"], "point: cut of no tree")
        before = point["number"]


# --- frames, records, chunks -----------------------------------------------------------------------


def unpack_zstd(stored, raw_size):
    require(stored[:4] == b"\x28\xb5\x2f\xfd", "frame: zstd magic")
    try:
        parameters = zstandard.get_frame_parameters(stored)
        require(parameters.content_size == raw_size, "frame: content size")
        decompressor = zstandard.ZstdDecompressor().decompressobj()
        raw = decompressor.decompress(stored)
        require(decompressor.eof and not decompressor.unused_data, "frame: not one zstd frame")
    except zstandard.ZstdError as error:
        raise Refused("corrupt", f"frame: {error}") from error
    return raw


def read_frame(data, entry):
    stored = data[entry["offset"]:entry["offset"] + entry["stored"]]
    raw = stored if entry["codec"] == 0 else unpack_zstd(stored, entry["raw"])
    require(len(raw) == entry["raw"], "frame: raw size")
    require(xxh3(raw) == entry["xxh3"], "frame: checksum")
    return raw


def check_pages(data, frame, raw):
    """That the list of a frame's pages says what they are."""
    size = pages_of(frame["raw"]) * 16
    listed = data[frame["list"]:frame["list"] + size]
    require(xxh3(listed) == struct.unpack_from("<Q", data, frame["list"] + size)[0],
            "list of pages: checksum")
    pages = (raw[at:at + PAGE] for at in range(0, len(raw), PAGE))
    require(listed == b"".join(hashlib.sha256(page).digest()[:16] for page in pages),
            "list of pages: of others")
    frame["list"] = listed


def decode_record(data, at, tree):
    require(at + 16 <= len(data), "record: cut off")
    type_, reserved, size, word, object_ = struct.unpack_from("<BBHIQ", data, at)
    require(reserved == 0 and (type_ == DATA or word == 0), "record: reserved")
    record = dict(type=type_, object=object_, size=size)
    if tree and type_ in TREE_RECORD_SIZE:
        require(size >= TREE_RECORD_SIZE[type_], "record: size")
        require(at + size <= len(data), "record: cut off")
        require(object_ >= TOP, "record: object")
        record.update(DECODE_TREE_RECORD[type_](data[at:at + size], object_))
        return record
    require(type_ in RECORD_SIZE and size == RECORD_SIZE[type_], "record: type or size")
    require(at + size <= len(data), "record: cut off")
    require(object_ == SPACE, "record: object")
    if type_ == OBJECT:
        record["object_size"], rest = struct.unpack_from("<Q8s", data, at + 16)
        require_zeros(rest, "object record")
        require(1 <= record["object_size"] <= VOLUME_MAX, "object record: size")
        return record
    if type_ == ZERO:
        record["offset"], record["length"] = struct.unpack_from("<QQ", data, at + 16)
        longest = VOLUME_MAX
    else:
        record["offset"], record["length"], record["source_offset"] = struct.unpack_from(
            "<QII", data, at + 16)
        longest = FRAME_RAW_MAX if type_ == DATA else CHUNK
        require(record["source_offset"] + record["length"] <= longest, "extent: source")
    if type_ == DATA:
        record["frame"] = word
        require_zeros(data[at + 32:at + 40], "data record")
    elif type_ == CHUNK_RECORD:
        record["name"] = data[at + 32:at + 64]
    require(1 <= record["length"] <= longest, "extent: length")
    require(record["offset"] % PAGE == 0, "extent: offset")
    require(record["offset"] + record["length"] <= VOLUME_MAX, "extent: end")
    return record


def split_text(data, fixed, *lengths):
    """The texts behind the fields of a record, which say how long it is; zeros fill it up."""
    require(len(data) == (fixed + sum(lengths) + 7) // 8 * 8, "record: size")
    texts, at = [], fixed
    for length in lengths:
        texts.append(data[at:at + length])
        at += length
    require(not any(data[at:]), "record: a byte behind its text is not zero")
    return texts


def decode_node(data, object_):
    kind, reserved1, mode, uid, gid, major, minor, flags, project, target_length, reserved2, \
        size, mtime, reserved3 = struct.unpack_from("<BsHIIIIIIH2sQq8s", data, 16)
    target, = split_text(data, TREE_RECORD_SIZE[NODE], target_length)
    require_zeros(reserved1 + reserved2 + reserved3, "node")
    require(kind in NODE_KINDS, "node: kind")
    require(object_ != TOP or kind == DIRECTORY, "node: the top is not a directory")
    require(kind != GONE or not any(data[16:]), "node: more of an object that is gone")
    require(mode <= MODE_MAX, "node: mode")
    require(kind in (CHARACTER_DEVICE, BLOCK_DEVICE) or major == minor == 0, "node: device")
    require(1 <= target_length <= TARGET_MAX if kind == SYMLINK else target_length == 0,
            "node: target length")
    require(0 not in target, "node: a zero in the target")
    require(size <= (VOLUME_MAX if kind == FILE else 0), "node: size")
    return dict(kind=kind, mode=mode, uid=uid, gid=gid, major=major, minor=minor, flags=flags,
                project=project, target=target, file_size=size, mtime=mtime)


def decode_xattr(data, _object):
    name_length, reserved, length, place = struct.unpack_from("<B3sIQ", data, 16)
    require(length <= VALUE_MAX, "xattr: value length")
    within = length <= VALUE_WITHIN_MAX
    name, value = split_text(data, TREE_RECORD_SIZE[XATTR], name_length, length if within else 0)
    require_zeros(reserved, "xattr")
    require(name and 0 not in name, "xattr: name")
    require(place == 0 if within else place % PAGE == 0, "xattr: place")
    return dict(name=name, length=length, value=value, place=None if within else place)


def decode_name(data, object_):
    offset, child, name_length, reserved = struct.unpack_from("<QQB7s", data, 16)
    name, = split_text(data, TREE_RECORD_SIZE[NAME], name_length)
    require_zeros(reserved, "name")
    require(name and name not in (b".", b"..") and 0 not in name and b"/" not in name,
            "name: name")
    require(offset == xxh3(name), "name: offset")
    require(child == 0 or (child > TOP and child != object_), "name: child")
    return dict(offset=offset, child=child, name=name)


def decode_range(data, object_):
    """RUN, and HOLE, which is the same without a place."""
    offset, length = struct.unpack_from("<QQ", data, 16)
    require(object_ != TOP, "run or hole: the top is not a file")
    require(offset % PAGE == 0 and length % PAGE == 0 and length > 0,
            "run or hole: offset or length")
    require(offset + length <= VOLUME_MAX, "run or hole: end")
    return dict(offset=offset, length=length)


def decode_run(data, object_):
    split_text(data, TREE_RECORD_SIZE[RUN])
    place, = struct.unpack_from("<Q", data, 32)
    require(place % PAGE == 0, "run: place")
    return dict(decode_range(data, object_), place=place)


def decode_hole(data, object_):
    split_text(data, TREE_RECORD_SIZE[HOLE])
    return decode_range(data, object_)


DECODE_TREE_RECORD = {NODE: decode_node, XATTR: decode_xattr, NAME: decode_name, RUN: decode_run,
                      HOLE: decode_hole}


def order_in_object(record):
    """No two records of an object have the same."""
    group = {NODE: 1, XATTR: 2, NAME: 3, RUN: 4, HOLE: 4}[record["type"]]
    return group, record.get("offset", 0), record.get("name", b"")


def check_ranges(ranges, node):
    end = 0
    for record in ranges:
        require(record["offset"] >= end, "runs or holes overlap")
        end = record["offset"] + record["length"]
    if node:
        pages = (node["file_size"] + PAGE - 1) // PAGE
        require(end <= pages * PAGE, "runs or holes behind the last page of the file")


def check_tree_object(records, space_size):
    """What the records of one object say together."""
    orders = [order_in_object(record) for record in records]
    require(all(a < b for a, b in zip(orders, orders[1:])),
            "records of an object are out of order, or there twice")
    types = {record["type"] for record in records}
    node = records[0] if NODE in types else None
    names = NAME in types
    ranges = [record for record in records if record["type"] in (RUN, HOLE)]
    require(node or XATTR not in types, "xattr: without a node")
    require(not (names and ranges), "names and runs or holes of one object")
    if node:
        require(node["kind"] != GONE or len(records) == 1, "more of an object that is gone")
        require(node["kind"] == DIRECTORY or not names, "names of what is no directory")
        require(node["kind"] == FILE or not ranges, "runs or holes of what is no file")
    check_ranges(ranges, node)
    for record in records:
        if record.get("place") is not None:
            require(record["place"] + record["length"] <= space_size, "outside the space")


def check_tree(records, space_size):
    before = SPACE
    for object_, group in itertools.groupby(records, key=lambda record: record["object"]):
        require(object_ > before, "objects are out of order")
        check_tree_object(list(group), space_size)
        before = object_


def check_extent(record, end_before, object_size, frames):
    end = record["offset"] + record["length"]
    require(record["offset"] >= end_before, "extents overlap or are out of order")
    require(end <= object_size, "extent: outside the object")
    require(record["length"] % PAGE == 0 or end == object_size, "extent: ends within a page")
    if record["type"] == DATA:
        require(record["frame"] < len(frames), "extent: frame")
        require(record["source_offset"] + record["length"] <= frames[record["frame"]]["raw"],
                "extent: outside its frame")
    return end


def decode_records(data, tables, footer, tree):
    records, tree_records = [], []
    end, object_size = 0, 0
    for block in tables["blocks"]:
        raw = read_frame(data, block)
        at = 0
        while at < len(raw):
            record = decode_record(raw, at, tree)
            if at == 0:
                require(block["first"] == (record["object"], record.get("offset", 0)),
                        "block: first object or offset")
            require((record["type"] == OBJECT) == (not records), "the object is not first")
            if record["type"] == OBJECT:
                object_size = record["object_size"]
                require(not tree or object_size % PAGE == 0, "the space ends within a page")
            elif record["type"] in TREE_RECORD_SIZE:
                tree_records.append(record)
            else:
                require(not tree_records, "an extent behind the tree's records")
                end = check_extent(record, end, object_size, tables["frames"])
            records.append(record)
            at += record["size"]
    require(len(records) == footer["records"], "number of records")
    check_tree(tree_records, object_size)
    return records


def chunk_name(chunk):
    pages = (chunk[at:at + PAGE] for at in range(0, CHUNK, PAGE))
    return hashlib.sha256(b"".join(hashlib.sha256(page).digest() for page in pages)).digest()


def decode(data):
    """All of a segment, verified."""
    require(len(data) >= 256, "too short")
    header = decode_header(data)
    footer = decode_footer(data[-128:], len(data))
    index = data[footer["index_offset"]:footer["index_offset"] + footer["index_size"]]
    require(xxh3(index) == footer["index_xxh3"], "index: checksum")
    tables = decode_index(data, footer)
    check_layout(tables, footer, header["pages"])
    check_tables(tables, header)
    require(hashlib.sha256(data[:-48]).digest() == footer["digest"], "digest")
    records = decode_records(data, tables, footer, header["tree"])
    raws = [read_frame(data, frame) for frame in tables["frames"]]
    for frame, raw in zip(tables["frames"], raws):
        if frame["listed"]:
            check_pages(data, frame, raw)
    for chunk in tables["chunks"]:
        at = chunk["frame_offset"]
        require(chunk_name(raws[chunk["frame"]][at:at + CHUNK]) == chunk["name"], "chunk: name")
    return header, footer, tables, records, raws


# --- text ------------------------------------------------------------------------------------------


def say_bytes(text):
    return text.hex() or "-"


def say_node(record):
    return (f"node {record['object']} kind {NODE_KINDS[record['kind']]} mode {record['mode']:04o}"
            f" uid {record['uid']} gid {record['gid']} device {record['major']}:{record['minor']}"
            f" flags {record['flags']:#x} project {record['project']} size {record['file_size']}"
            f" mtime {record['mtime']} target {say_bytes(record['target'])}")


def say_xattr(record):
    within = record["place"] is None
    value = say_bytes(record["value"]) if within else f"at {record['place']}"
    return (f"xattr {record['object']} name {record['name'].hex()}"
            f" value-length {record['length']} value {value}")


def say_name(record):
    return (f"name {record['object']} offset {record['offset']} child {record['child']}"
            f" name {record['name'].hex()}")


def say_run(record):
    return (f"run {record['object']} offset {record['offset']} length {record['length']}"
            f" place {record['place']}")


def say_hole(record):
    return f"hole {record['object']} offset {record['offset']} length {record['length']}"


SAY_TREE_RECORD = {NODE: say_node, XATTR: say_xattr, NAME: say_name, RUN: say_run, HOLE: say_hole}


def say_record(record):
    if record["type"] in SAY_TREE_RECORD:
        return SAY_TREE_RECORD[record["type"]](record)
    if record["type"] == OBJECT:
        return f"object {record['object']} size {record['object_size']}"
    name = {DATA: "data", CHUNK_RECORD: "chunk", ZERO: "zero"}[record["type"]]
    text = f"{name} {record['object']} offset {record['offset']} length {record['length']}"
    if record["type"] == DATA:
        text += f" frame {record['frame']} frame-offset {record['source_offset']}"
    elif record["type"] == CHUNK_RECORD:
        text += f" chunk-offset {record['source_offset']} name {record['name'].hex()}"
    return text


def say_point(point):
    text = (f"point {point['number']} begin {point['begin']} end {point['end']}"
            f" consistency {CONSISTENCIES[point['consistency']]} cut {CUTS[point['cut']]}")
    text += " resync" if point["flags"] & RESYNC else ""
    text += " merged" if point["flags"] & MERGED else ""
    text += " group" if point["flags"] & GROUP else ""
    return text + f" attempts {point['attempts']} changed-bytes {point['changed']}"


def say_place(entry):
    return (f"offset {entry['offset']} stored {entry['stored']} raw {entry['raw']}"
            f" codec {CODECS[entry['codec']]}")


def say(header, footer, tables, records, raws):
    lines = [
        f"segment version {header['version']} kind {KINDS[header['kind']]}"
        f" volume-kind {VOLUME_KINDS[header['volume_kind']]}",
        f"volume {header['volume']} lineage {header['lineage']}",
        f"from {header['from_']} to {header['to']} part {header['part']}",
        f"created {header['created']}",
        f"prev {header['prev'].hex()}",
        f"records {footer['records']} raw-size {footer['raw_size']}"
        f" file-size {footer['file_size']}",
        f"digest {footer['digest'].hex()}",
    ]
    for i, block in enumerate(tables["blocks"]):
        lines.append(f"block {i} {say_place(block)} first {block['first'][0]} {block['first'][1]}")
    for i, chunk in enumerate(tables["chunks"]):
        lines.append(f"chunk {i} frame {chunk['frame']} frame-offset {chunk['frame_offset']}"
                     f" name {chunk['name'].hex()}")
    lines += [say_point(point) for point in tables["points"]]
    lines += [say_record(record) for record in records]
    for i, (frame, raw) in enumerate(zip(tables["frames"], raws)):
        lines.append(f"frame {i} {say_place(frame)} sha256 {hashlib.sha256(raw).hexdigest()}")
        if frame["listed"]:
            lines.append(f"pages {i} count {len(frame['list']) // 16}"
                         f" sha256 {hashlib.sha256(frame['list']).hexdigest()}")
    return "".join(line + "\n" for line in lines)


def check(directory):
    """Every segment there against its .expect; of a refusal, only the kind is compared."""
    wrong = good = bad = 0
    for path in sorted(pathlib.Path(directory).glob("*.seg")):
        expected = path.with_suffix(".expect").read_text(encoding="utf-8")
        try:
            text = say(*decode(path.read_bytes()))
            good += 1
        except Refused as refusal:
            text = f"refused {refusal.kind}\n"
            expected = expected.splitlines(keepends=True)[0]
            bad += 1
        if text != expected:
            wrong += 1
            print(f"{path.name}: expected\n{expected}and got\n{text}")
    print(f"{good} good and {bad} bad segments, {wrong} not as expected")
    return 0 if wrong == 0 and good > 0 and bad > 0 else 1


def main(arguments):
    if len(arguments) == 2 and arguments[0] == "--check":
        return check(arguments[1])
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 64
    try:
        print(say(*decode(pathlib.Path(arguments[0]).read_bytes())), end="")
    except Refused as refusal:
        print(f"refused {refusal.kind}")
        print(refusal, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
