"""Manifests as spreadsheets, scripts and people write them."""

import csv

import pytest

from finetune_kit import checks
from finetune_kit.data import manifest
from tests.data import samples

ROWS = "path,label,split\na.png,cat,train\nsub/b.png,dog,test\n"


def write(folder, text, *, name="list.csv"):
    """Writes a manifest, text as UTF-8 or bytes; returns its path as a string."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def refused(folder, text):
    """Returns the one line that a manifest is refused with."""
    with pytest.raises(checks.DataError) as caught:
        manifest.list_manifest(write(folder, text))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_rows_are_images_relative_to_the_file(tmp_path) -> None:
    data = samples.write(tmp_path / "sub" / "b.png", seed=3).read_bytes()
    found = manifest.list_manifest(write(tmp_path, ROWS))
    assert found.names == ("a.png", "sub/b.png") and found.labels == ("cat", "dog")
    assert found.splits == ("train", "test") and found.classes == ("cat", "dog")
    assert found.reader.read(1) == data and not found.ignored


def test_splits_may_be_left_out_and_classes_come_in_natural_order(tmp_path) -> None:
    text = "path,label\nc,class 10\nb,class 2\na,class 2\n"
    found = manifest.list_manifest(write(tmp_path, text))
    assert found.names == ("a", "b", "c") and found.splits == ("", "", "")
    assert found.classes == ("class 2", "class 10")


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + ROWS,
        ROWS.replace("\n", "\r\n"),
        ROWS.replace("\n", "\n\n"),
        ROWS.rstrip("\n"),
        ROWS.replace(",", ", "),
        "Path , LABEL,Split\na.png,cat,Train\nsub/b.png,dog,TESTING\n",
        "id,split,label,path\n1,training,cat,a.png\n2,test,dog,./sub//b.png\n",
        'path,label,split\n"a.png", "cat", train\n"sub/b.png",dog ,test\n',
    ],
)
def test_ways_to_write_the_same(tmp_path, text) -> None:
    found = manifest.list_manifest(write(tmp_path, text))
    assert found.names == ("a.png", "sub/b.png") and found.labels == ("cat", "dog")
    assert found.splits == ("train", "test")


def test_names_of_every_kind_survive(tmp_path) -> None:
    rows = [("a, b.png", "two words"), ('say "x".png', "猫"), ("été/1\n2.png", "ÆØÅ 7")]
    with open(tmp_path / "list.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    found = manifest.list_manifest(str(tmp_path / "list.csv"))
    assert sorted(zip(found.names, found.labels, strict=True)) == sorted(rows)


def test_an_absolute_path_is_taken_as_it_is(tmp_path) -> None:
    image = samples.write(tmp_path / "elsewhere" / "x.png")
    found = manifest.list_manifest(write(tmp_path, f"path,label\n{image},cat\n"))
    assert found.names == (str(image),) and found.reader.read(0) == image.read_bytes()


def test_a_path_that_stands_twice_is_refused_however_it_is_spelt(tmp_path) -> None:
    for second in ("a.png", "./a.png", "sub/../a.png"):
        line = refused(tmp_path, f"path,label\na.png,cat\nb.png,dog\n{second},dog\n")
        assert "A path stands once in a manifest. Received: 'a.png' twice in" in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"needs the columns path,label and may have split. Received: .*:1 with nothing$"),
        ("file,label\na,b\n", ":1 with file,label$"),
        ("path;label\na;b\n", ":1 with path;label$"),
        ("path,label\n", "A manifest needs rows. Received: .* with a header alone$"),
        ("path,label\na,b\n\nc\n", "as many fields as the header. Received: .*csv:4$"),
        ("path,label\na,b\nc,d,e\n", "as many fields as the header. Received: .*csv:3$"),
        ("path,label\na,b\n,d\n", "A row needs a path. Received: .*csv:3 without one$"),
        ("path,label\na,b\nc, \n", "A row needs a label. Received: .*csv:3 without one$"),
        (
            "path,label,split\na,b,train\nc,d,dev\n",
            "A split must be one of train, validation, test. Received: 'dev' at .*csv:3$",
        ),
        ('path,label\na,b\n"c,d\n', "UTF-8 text with commas. Received: .*csv:3, unexpected end"),
        ('path,label\na,b\nc,"d"e\n', "text with commas. Received: .*csv:3, .*expected after"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, text, words) -> None:
    with pytest.raises(checks.DataError, match=words):
        manifest.list_manifest(write(tmp_path, text))
    refused(tmp_path, text)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_text_that_is_no_utf8_is_refused_with_its_line(tmp_path, mark) -> None:
    # Far beyond the first block that a text file is read in.
    rows = b"".join(b"%d.png,cat\n" % index for index in range(3000))
    path = write(tmp_path, mark + b"path,label\n" + rows + "caf\xe9.png,dog\n".encode("latin-1"))
    words = "needs UTF-8 text with commas. Received: .*list.csv:3002, invalid"
    for read in (manifest.list_manifest, manifest.check_manifest):
        with pytest.raises(checks.DataError, match=words):
            read(path)


def test_sixteen_bit_text_is_refused(tmp_path) -> None:
    for encoding in ("utf-16", "utf-16-le"):
        line = refused(tmp_path, ROWS.encode(encoding))
        assert "csv:1" in line


def test_the_check_looks_at_the_first_row_alone(tmp_path) -> None:
    path = write(tmp_path, "path,label\na,b\nc\n")
    manifest.check_manifest(path)
    assert manifest.read_rows(path, limit=1) == [{"path": "a", "label": "b", "split": ""}]
    with pytest.raises(checks.DataError, match="as many fields"):
        manifest.check_manifest(write(tmp_path, "path,label\na\n"))
