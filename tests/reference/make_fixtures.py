"""Writes golden fixtures from the reference libraries, or checks a folder of them.

    python make_fixtures.py --out ../fixtures_extra            write every case of this folder
    python make_fixtures.py --out DIR --only dit/hd48 sched    write some of them
    python make_fixtures.py --verify ../fixtures               recompute what a folder expects

Weights and inputs are random and depend on --seed and the case's name. What is expected is computed
from the written files, as --verify does it, so that writing and checking share one path.
"""

import argparse
import shutil
import sys
from pathlib import Path

import diffusers
import torch
import transformers

import dit
import pipeline
import sched
import text
import vae
from common import errors, float64, load, open_up, read_json, save, versions, write_json

KINDS = {module.KIND: module for module in [dit, vae, text, sched, pipeline]}

# Largest max|a-b| / max|reference| that --verify accepts: the tolerances of the fixtures' README.
TOLERANCE = {"dit": 1e-5, "vae": 3e-5, "text": 1e-5, "sched": 1e-5, "pipeline": 3e-5}


def chosen(kind, case, only):
    """Whether `kind/case` is meant by the names given with --only (all where there is none)."""
    return not only or kind in only or f"{kind}/{case}" in only


def write_case(module, case, out, seed):
    """Writes one case folder anew."""
    folder = out / module.KIND / case
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    settings = dict(module.CASES[case])
    module.make(folder, case, settings, seed)
    model, inputs = module.read(folder, settings)
    found = module.expected(model, inputs, settings)
    save(folder / "expected.safetensors", found)
    meta = {
        "script": "tests/reference/make_fixtures.py",
        "variant": case,
        "seed": seed,
        "settings": settings,
        "versions": versions(),
    }
    if hasattr(module, "remarks"):
        meta.update(module.remarks(model, inputs, found, settings))
    with float64():
        wide = module.expected(model, inputs, settings, torch.float64)
    alike = {name: found[name] for name in wide}
    meta["fp32_vs_fp64"] = errors(alike, wide)
    write_json(folder / "meta.json", meta)
    open_up(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    worst = meta["fp32_vs_fp64"]["worst"]
    print(
        f"{module.KIND}/{case}: {size / 1e6:.2f} MB, {len(found)} tensors, float32 against float64 "
        f"at worst {worst['max_abs_over_ref_max']:.1e} ({worst['tensor']})",
        flush=True,
    )
    return size


def verify_case(module, folder):
    """Recomputes what a case expects; returns whether it is within the tolerance."""
    settings = read_json(folder / "meta.json")["settings"]
    stored = load(folder / "expected.safetensors")
    settings["library_run"] = [name for name in stored if name.startswith("t2v.")]
    try:
        model, inputs = module.read(folder, settings)
        found = module.expected(model, inputs, settings)
        report = errors(found, stored)
    except ValueError as fault:
        print(f"{module.KIND}/{folder.name}: WRONG, {fault}", flush=True)
        return False
    worst = report["worst"]
    equal = sum(torch.equal(found[name], stored[name]) for name in stored)
    good = worst["max_abs_over_ref_max"] <= TOLERANCE[module.KIND]
    print(
        f"{module.KIND}/{folder.name}: {'ok' if good else 'DIFFERS'}, {equal} of {len(stored)} "
        f"tensors bit-identical, at worst {worst['max_abs_over_ref_max']:.1e} ({worst['tensor']})",
        flush=True,
    )
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--out", type=Path, help="write the cases into this folder")
    action.add_argument("--verify", type=Path, help="recompute the cases of this folder")
    parser.add_argument("--only", nargs="+", default=[], help="kinds, or kind/case")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # Whole-model casts are meant here: they are what the float64 runs are.
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.out:
        total = sum(
            write_case(module, case, options.out, options.seed)
            for kind, module in KINDS.items()
            for case in module.CASES
            if chosen(kind, case, options.only)
        )
        print(f"{total / 1e6:.2f} MB in all")
        return 0 if total else "no such case"
    results = [
        verify_case(KINDS[kind], path.parent)
        for kind in KINDS
        for path in sorted(options.verify.glob(f"{kind}/*/meta.json"))
        if chosen(kind, path.parent.name, options.only)
    ]
    if not results:
        return f"no cases in {options.verify}"
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
