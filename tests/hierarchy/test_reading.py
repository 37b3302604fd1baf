"""Small files of the forms that data sets come in; what is wrong with one is told with its name and place."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from divfeat.errors import DataError
from divfeat.hierarchy import Hierarchy
from divfeat.hierarchy.reading import TAXA

NESTED = {"animal": {"dog": ["pug", "husky"], "cat": {}}, "thing": ["cup"]}
ROWS = [("animal", "dog", "pug"), ("animal", "dog", "husky"), ("animal", None, "cat"), ("thing", None, "cup")]
EDGES = "# is-a\nroot\tanimal\nroot\tthing\nanimal\tdog\nanimal\tcat\ndog\tpug\ndog\thusky\nthing\tcup\n"


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_all_forms_give_one_tree(tmp_path: Path) -> None:
    table = pa.table(
        {"kind": [row[0] for row in ROWS], "pet": [row[1] for row in ROWS], "class": [row[2] for row in ROWS]}
    )
    pq.write_table(table.append_column("id", [list(range(4))]), tmp_path / "tree.parquet")
    lines = "".join(f"{place},{','.join(cell or '' for cell in row)}\n" for place, row in enumerate(ROWS))
    paths = [
        written(tmp_path, "tree.json", json.dumps(NESTED)),
        written(tmp_path, "tree.csv", "id,kind,pet,class\n" + lines),
        written(tmp_path, "tree.txt", EDGES),
        tmp_path / "tree.parquet",
    ]
    expected = Hierarchy.from_nested(NESTED)
    for path in paths:
        found = Hierarchy.load(path)
        assert found.aligned(expected.classes).identity == expected.identity, path
    assert Hierarchy.load(str(paths[1])).classes == ("pug", "husky", "cat", "cup")


def test_a_column_of_names_is_a_level_whatever_it_is_called(tmp_path: Path) -> None:
    """And a line without anything is none."""
    path = written(tmp_path, "a.csv", "kind,label\na,x\n\na,y\nb,z\n\n")
    expected = Hierarchy.from_nested({"a": ["x", "y"], "b": ["z"]})
    assert Hierarchy.load(path) == expected
    for header, *rows in (
        ("id,kind,class", "n01,a,x", "n02,a,y", ",b,z"),
        ("label,kind,index,class", "0,a,0.0,x", "1,a,1.0,y", "2,b,,z"),
        ("kind,class,id", "a,x,7", "a,y,8", "b,z,9"),
    ):
        assert Hierarchy.load(written(tmp_path, "b.csv", "\n".join([header, *rows]))) == expected


def test_categories_of_inaturalist(tmp_path: Path) -> None:
    """The competition's form: a list of categories with their ranks, labels by id, under `categories` in annotation files."""
    animals = [("Animalia", "Chordata", "Aves", "Pici", "Picidae", genus) for genus in ("Picus", "Dryocopus")]
    rows = [
        {"id": 1} | dict(zip(TAXA, (*animals[0], "Picus viridis"), strict=True)),
        {"id": 0} | dict(zip(TAXA, (*animals[0], "Picus canus"), strict=True)),
        {"id": 2} | dict(zip(TAXA, (*animals[1], "Dryocopus martius"), strict=True)),
        {"id": 3} | dict(zip(TAXA, ("Plantae", "T", "M", "F", "Fagaceae", "Fagus", "Fagus sylvatica"), strict=True)),
    ]
    for content in (rows, {"images": [], "categories": rows}):
        tree = Hierarchy.load(written(tmp_path, "categories.json", json.dumps(content)))
        assert tree.classes == ("Picus canus", "Picus viridis", "Dryocopus martius", "Fagus sylvatica")
        assert tree.distances()[0].tolist() == [0, 1, 2, 7] and tree.sizes == [2, 2, 2, 2, 2, 3, 4]
    del rows[2]["family"]
    with pytest.raises(DataError, match="category 'Dryocopus martius' has no 'family'"):
        Hierarchy.load(written(tmp_path, "categories.json", json.dumps(rows)))


def test_relations_of_inaturalist_and_tiered_imagenet(tmp_path: Path) -> None:
    """As they come with "Making Better Mistakes": one root, classes by their number, chains of one child; WordNet's, ragged."""
    nature = "root node_AB\nnode_AB node_CD\nnode_CD nat0001\nnode_CD nat0000\nnode_AB node_EF\nnode_EF nat0002\n"
    tree = Hierarchy.load(written(tmp_path, "nature_isa.txt", nature)).of(["nat0000", "nat0001", "nat0002"])
    assert tree.distances().tolist() == [[0, 1, 2], [1, 0, 2], [2, 2, 0]] and tree.height == 3
    relations = [
        *("n00000001 n00000002", "n00000002 n00000003", "n00000003 n00000010", "n00000003 n00000011"),
        *("n00000002 n00000012", "n00000001 n00000020", "n00000020 n00000021"),
    ]
    words = ["n00000021", "n00000012", "n00000011", "n00000010"]
    tree = Hierarchy.load(written(tmp_path, "tiered_isa.txt", "\n".join(relations))).of(words)
    assert tree.classes == tuple(words) and tree.names[-1] == "n00000001" and tree.sizes == [2, 3, 4]
    assert tree.distances().tolist() == [[0, 3, 3, 3], [3, 0, 2, 2], [3, 2, 0, 1], [3, 2, 1, 0]]


def test_the_tree_of_tin100(real_data: Path) -> None:
    tree = Hierarchy.load(real_data / "tin100" / "hierarchy.json")
    names = json.loads(pq.read_schema(real_data / "tin100" / "test-00000-of-00001.parquet").metadata[b"huggingface"])
    fine = names["info"]["features"]["fine_label"]["names"]
    assert tree.aligned(fine).sizes == [3, 8, 20, 100]
    assert list(tree.classes) != fine  # by position the tree would be another


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.yaml", "", "unknown kind of file '.yaml'; known: .json, .csv, .parquet, .txt"),
        ("a.json", "{", "cannot be read"),
        ("a.json", "3", "holds 3, not nested mappings"),
        ("a.json", '{"a": ["x"], "a": ["y"]}', "'a' comes twice below one node"),
        ("a.json", '{"a": ["x", "x"]}', "class 'x' is in the hierarchy more than once"),
        ("a.csv", "", "the table is empty"),
        ("a.csv", "kind,class\n", "the table is empty"),
        ("a.csv", "kind,class\na,x\nb\n", "row 3 has 1 cells, the header 2"),
        ("a.csv", "kind,label\na,0\na,1\n", r"'a' .*more than once.*left out as no level: 'label'"),
        ("a.txt", "r x\nr y\nq z\nz q\n", "has a cycle: of q, z each has a child, and no class lies below"),
        ("a.csv", "kind,class\na,x\n,\n", "row 2 of the hierarchy is empty"),
        ("a.txt", "a b c\n", "line 1 is no pair of parent and child: 'a b c'"),
        ("a.txt", "# nothing\n", "holds no relations"),
        ("a.txt", "a b\nb a\n", "cycle"),
        ("a.parquet", "no parquet", "cannot be read"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_name(tmp_path: Path, name: str, text: str, words: str) -> None:
    path = written(tmp_path, name, text)
    with pytest.raises(DataError, match=words) as raised:
        Hierarchy.load(path)
    assert str(path) in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.csv cannot be read: .*No such file"):
        Hierarchy.load(tmp_path / "none.csv")
