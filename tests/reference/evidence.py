"""Prints the tables of docs/evidence.md from folders of `anyid-rt world make`.

    anyid-rt world make -o DIR
    python evidence.py DIR [SECOND_DIR]

The first folder gives all tables; a second one, made with another `--seed`, gives the main figures beside
it. Only Python's own library is needed. Everything is read from what the steps wrote: `report`, `hidden`
and `preferences` (evaluations), the logs of the trainings, and `costs.jsonl`.
"""

import json
import math
import sys
from pathlib import Path

NAMES = {
    "full": "everything",
    "none": "no references, whole prompt",
    "primary": "the primary reference alone",
    "absolute": "whole prompt instead of the differential one",
    "exchanged": "references of another person",
    "no-dpo": "without preferences",
    "no-lora": "without adapter and preferences",
    "decoded": "true clips through the autoencoder",
    "uninformative": "a second reference that hides it, too",
}


def read(folder, name):
    path = folder / name / "result.json"
    return json.loads(path.read_text()) if path.exists() else None


def figure(cell, digits=3):
    if not cell:
        return ""
    return f"{cell['value']:.{digits}f} ± {cell['se']:.{digits}f}"


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def p(cell):
    """Two-sided p of a difference, as if it were normal."""
    if not cell or not cell["se"]:
        return "1" if cell and not cell["value"] else "0"
    value = math.erfc(abs(cell["value"]) / cell["se"] / math.sqrt(2))
    return f"{value:.2g}" if value >= 1e-4 else "< 0.0001"


def main_table(result, arms, measures, title):
    print(f"### {title}\n")
    arms = [arm for arm in arms if arm in result["arms"]]
    head = ["", "true clips", *(NAMES.get(arm, arm) for arm in arms)]
    rows = [
        [name, figure(result["ceiling"].get(name)), *(figure(result["arms"][arm].get(name)) for arm in arms)]
        for name in measures
    ]
    table(head, rows)


def shares(result, title):
    """What is right, of what the judge reads rightly on true clips."""
    rows = []
    for name in ("large", "small", "mentioned", "inherited"):
        top = result["ceiling"][name]["value"]
        row = [name]
        for arm in ("full", "none"):
            row.append(f"{result['arms'][arm][name]['value'] / top:.3f}")
        rows.append(row)
    print(f"### {title}: share of the ceiling\n")
    table(["", NAMES["full"], NAMES["none"]], rows)


def differences(result, arms, measures, title):
    print(f"### {title}\n")
    rows = []
    for arm in arms:
        for name in measures:
            cell = result["differences"].get(arm, {}).get(name)
            if cell:
                rows.append([NAMES.get(arm, arm), name, f"{cell['value']:+.3f} ± {cell['se']:.3f}", p(cell)])
    table(["arm less everything", "measure", "difference", "p"], rows)


def log(folder, stage):
    path = folder / "stages" / stage / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def trainings(folder):
    print("### Trainings\n")
    rows = []
    for stage in ("text", "frames", "vae", "images", "clips", "tuned", "judge", "preferred"):
        held = [(row["step"], row["validation"]) for row in log(folder, stage) if row.get("validation")]
        if not held:
            continue
        step, last = held[-1]
        names = ("accuracy", "pair_accuracy", "psnr_first", "psnr_later", "error", "chosen", "rejected")
        said = ", ".join(f"{name} {last[name]:.4g}" for name in names if last.get(name) is not None)
        if stage == "preferred":
            best = max(held, key=lambda row: row[1].get("accuracy") or 0)
            said += f"; best accuracy {best[1]['accuracy']:.3f} at update {best[0]}"
        rows.append([stage, str(step), said])
    table(["stage", "updates", "on other people"], rows)


def costs(folder):
    sums = {}
    path = folder / "costs.jsonl"
    if path.exists():
        for line in path.read_text().splitlines():
            row = json.loads(line)
            sums[row["step"]] = sums.get(row["step"], 0.0) + row["processor_seconds"]
    path = folder / "costs.json"
    if path.exists():
        for name, row in json.loads(path.read_text()).items():
            sums[name] = sums.get(name, 0.0) + row["processor_seconds"]
    if sums:
        print("### Processor time\n")
        rows = [[name, f"{seconds / 60:.1f}"] for name, seconds in sums.items()]
        table(["step", "minutes of one processor"], [*rows, ["together", f"{sum(sums.values()) / 60:.0f}"]])


def one(folder):
    result, hidden = read(folder, "report"), read(folder, "hidden")
    trainings(folder)
    if result:
        judges = [("By the judge that paints", result)]
        if "learned" in result:
            judges.append(("By the judge that was trained", result["learned"]))
        for title, judged in judges:
            measures = ["large", "small", "identity", "mentioned", "inherited"]
            main_table(judged, ["decoded", "full", "none", "exchanged"], measures, title)
            own = judged["arms"]["exchanged"].get("own.large")
            print(f"Of the exchanged references, attributes that are those of the set's own person: {figure(own)}.\n")
            shares(judged, title)
            arms = ["full", "primary", "absolute", "no-lora"]
            main_table(judged, arms, measures, f"{title}: without each part")
            kept = ["colour.hair.kept", "colour.clothes.kept"]
            differences(judged, arms[1:], measures + kept, f"{title}: differences within clips")
        parts = [name for name in result["ceiling"] if "." not in name]
        main_table(result, ["decoded", "full", "none"], parts, "Every measure, by the judge that paints")
        colours = [name for name in result["ceiling"] if name.startswith("colour.")]
        main_table(result, ["full", "none", "absolute"], colours, "Colour errors")
    if hidden:
        for title, judged in [("paints", hidden), ("was trained", hidden.get("learned"))]:
            if judged:
                arms = ["full", "primary", "uninformative"]
                main_table(judged, arms, ["hidden"], f"What only the second reference shows, by the judge that {title}")
                differences(judged, arms[1:], ["hidden"], "Differences within clips")
    preferences = read(folder, "preferences")
    if preferences:
        measures = ["large", "small", "identity", "mentioned", "inherited"]
        for title, judged in [("paints", preferences), ("was trained", preferences.get("learned"))]:
            if judged:
                main_table(judged, ["full", "no-dpo"], measures, f"Preferences, by the judge that {title}")
                differences(judged, ["no-dpo"], measures, "Differences within clips")
    costs(folder)


def both(first, second):
    print("### Two seeds\n")
    results = [read(folder, "report") for folder in (first, second)]
    rows = [
        [f"{arm}, {name}", *(figure(result["arms"][arm].get(name)) for result in results)]
        for arm in ("full", "none")
        for name in ("large", "small", "mentioned", "inherited")
    ]
    table(["", *(folder.name for folder in (first, second))], rows)


def main():
    folders = [Path(word) for word in sys.argv[1:]]
    if len(folders) not in (1, 2):
        sys.exit(__doc__)
    one(folders[0])
    if len(folders) == 2:
        both(*folders)


if __name__ == "__main__":
    main()
