"""Shapes of published trees, as sizes of their lowest groups in the order of the tree: what a frame's numbers hang on."""

from divfeat.hierarchy import Hierarchy

#: FGVC-Aircraft: variants in each family, families in each manufacturer.
AIRCRAFT = [
    [1, 1, 8, 4, 2, 3, 2, 1], [1, 1, 4, 2, 4, 1], [1, 1], [1], [2, 1, 1], [1, 1], [1], [1, 1], [1, 1, 1, 1], [1, 1, 2],
    [1, 1, 2], [1, 1, 1, 1, 2, 1], [1, 1, 1, 2], [1], [1], [3, 1, 2, 1], [1], [1, 1], [1, 1, 1], [1], [2], [1], [1], [1], [1],
    [1, 1], [1], [1], [1, 1], [1],
]  # fmt: skip
#: iNaturalist 2019, as "Making Better Mistakes" has it: species in each genus, below family, order, class, phylum and kingdom.
INATURALIST = [
    [[
        [[[14]]],
        [[[10], [10]], [[15]], [[14], [10], [13]]],
        [
            [[38]], [[13], [12]], [[13]], [[13]], [[13], [12]], [[10, 13], [10], [17], [18]], [[16]], [[20, 10, 15, 12]], [[25]],
            [[23], [25]], [[10]], [[15]], [[14, 10, 13, 10]], [[12], [15, 14], [12]], [[12]], [[19], [16]], [[13, 13]],
            [[12, 14, 11]], [[10]],
        ],
        [[[23]]],
    ]],
    [
        [
            [[[11], [18], [10]]],
            [[[10], [12], [22], [11], [10]], [[10]], [[15], [11, 14], [11]]],
            [[[10]]],
        ],
        [[[[11]], [[23], [11]], [[14], [25]], [[12, 15, 10], [10, 10]]]],
    ],
    [[[[[12]]]]],
]  # fmt: skip


def tree_of_sizes(sizes: list) -> Hierarchy:
    """A group of each size below each inner list, classes named by their place."""

    def below(part: list | int, name: str) -> dict | list:
        if isinstance(part, int):
            return [f"{name}.{k}" for k in range(part)]
        return {f"{name}.{k}": below(one, f"{name}.{k}") for k, one in enumerate(part)}

    return Hierarchy.from_nested(below(sizes, "t"))
