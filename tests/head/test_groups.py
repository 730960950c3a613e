"""Groups of images, and the notes on them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cnncodes.head.groups import notes_on_copies, notes_on_groups, number_groups

FEW = st.sampled_from("abcdef")


def components(digests, names):
    """Number the groups by looking at all pairs of images until nothing changes."""
    numbers = list(range(len(digests)))
    changed = True
    while changed:
        changed = False
        for i in range(len(digests)):
            for j in range(i):
                same = digests[i] == digests[j] or (names[i] and names[i] == names[j])
                if same and numbers[i] != numbers[j]:
                    numbers[i] = numbers[j] = min(numbers[i], numbers[j])
                    changed = True
    return [sorted(set(numbers)).index(number) for number in numbers]


@given(st.lists(st.tuples(FEW | st.text(max_size=3), st.just("") | FEW), max_size=12))
def test_images_with_a_digest_or_a_name_in_common_belong_together(images):
    digests, names = [each for each, _ in images], [each for _, each in images]
    assert number_groups(digests, names).tolist() == components(digests, names)
    assert number_groups(digests).tolist() == components(digests, [""] * len(images))


def test_a_chain_of_copies_and_names_is_one_group():
    digests, names = ["1", "1", "2", "3", "4"], ["", "x", "x", "", "y"]
    assert number_groups(digests, names).tolist() == [0, 0, 0, 1, 2]


def test_copies_are_counted_and_two_labels_named():
    paths = [f"{number}.png" for number in range(8)]
    digests, labels = list("aaabbccd"), list("xxyxyxyx")
    assert notes_on_copies(paths, digests, labels, "so what") == [
        "4 of 8 images are copies of others (the same file); so what",
        "3 files have more than one label: 0.png (x) and 2.png (y), 3.png (x) and 4.png (y), "
        "5.png (x) and 6.png (y)",
    ]
    assert notes_on_copies(paths[:2], digests[:2], labels[:2], "kept") == [
        "1 of 2 images is a copy of another (the same file); kept"
    ]
    assert notes_on_copies(paths[3:5], digests[3:5], labels[3:5], "kept")[1:] == [
        "1 file has more than one label: 3.png (x) and 4.png (y)"
    ]
    assert notes_on_copies(paths, paths, labels, "kept") == []
    many = notes_on_copies(["p"] * 8, list("aabbccdd"), list("xyxyxyxy"), "kept")[1]
    assert many.startswith("4 files have")
    assert many.endswith(", …")


def test_groups_are_counted():
    assert notes_on_groups(["x", "y", "x"]) == [
        "the images are of 2 groups, which stay on one side of the split"
    ]
    assert notes_on_groups(["x", "", ""]) == [
        "the images are of 1 group, which stays on one side of the split; 2 images have none"
    ]
    assert notes_on_groups(["", ""]) == notes_on_groups([]) == []
