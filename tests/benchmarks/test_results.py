from __future__ import annotations

import copy

from benchmarks import results


def cell(name, median, low=None, high=None):
    ratio = {"median": median, "low": low or median, "high": high or median}
    return {
        "fullname": name,
        "stats": {"median": 1.0, "data": [1.0]},
        "params": {"cell": "object"},
        "extra_info": {"ratio": ratio},
    }


def run(*cells, commit="new"):
    return {
        "benchmarks": list(cells),
        "commit_info": {"id": commit},
        "datetime": "today",
        "machine_info": {"versions": {"torch": commit}},
    }


def test_a_cell_carries_its_own_commit_and_no_raw_rounds():
    document = run(cell("a", 1))
    results.merge(document, {}, None)
    (merged,) = document["benchmarks"]
    assert merged["commit"] == {"id": "new"}
    assert merged["versions"] == {"torch": "new"}
    assert merged["stats"] == {"median": 1.0}
    assert "params" not in merged


def test_cells_that_were_not_measured_this_time_stay():
    old = run(cell("a", 1), cell("b", 2), cell("c", 3), commit="old")
    results.merge(old, {"gone": "x: not installed: x", "d": "y: not installed: y"}, None)
    new = run(cell("a", 10), cell("d", 4))
    results.merge(new, {"c": "z: not installed: z"}, copy.deepcopy(old))
    found = {one["fullname"]: one for one in new["benchmarks"]}
    assert sorted(found) == ["a", "b", "d"]
    assert found["a"]["commit"]["id"] == "new"
    assert found["b"]["commit"]["id"] == "old"
    assert new["absent"] == {"c": "z: not installed: z", "gone": "x: not installed: x"}


def test_behind_when_the_whole_interval_is_below_the_committed_ratio():
    baseline = run(cell("a", 1.2), cell("b", 1.2), cell("c", 1.2))
    measured = [
        cell("a", 1.0, 0.9, 1.1),
        cell("b", 1.1, 1.0, 1.17),  # within the slack of 3%
        cell("unknown", 0.1, 0.1, 0.1),
    ]
    (sentence,) = results.behind(baseline, measured)
    assert sentence == "a: 1.00x its peer (0.90 to 1.10), committed 1.20x"


def test_no_file_is_no_baseline(tmp_path):
    assert results.read(tmp_path / "none.json") is None
