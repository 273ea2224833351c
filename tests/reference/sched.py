"""Cases of the two schedulers with a made-up model in the place of the network."""

import math

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from common import Random, load, read_json, save, widening, write_json

KIND = "sched"

CASES = {"shift3": dict(shift=3.0, steps=[50, 8, 4, 2, 1], shape=[1, 4, 3, 5, 5])}

FORMULA = (
    "v = 0.6*x - 0.9*tanh(1.3*x + cos(t/170)) + 0.25*sin(t/90), "
    "t the scheduler's timestep value"
)
CLASSES = {"unipc": UniPCMultistepScheduler, "euler": FlowMatchEulerDiscreteScheduler}


def unipc(shift):
    """The solver of Wan2.2's model folders, with another shift."""
    return UniPCMultistepScheduler(
        num_train_timesteps=1000,
        solver_order=2,
        solver_type="bh2",
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
    )


def velocity(x, t):
    """The made-up model."""
    t = float(t)
    return 0.6 * x - 0.9 * torch.tanh(1.3 * x + math.cos(t / 170)) + 0.25 * math.sin(t / 90)


def make(folder, case, settings, seed):
    """Writes the scheduler configurations and the start sample."""
    random = Random(seed, KIND, case)
    made = {
        "unipc": unipc(settings["shift"]),
        "euler": FlowMatchEulerDiscreteScheduler(shift=settings["shift"]),
    }
    for name, scheduler in made.items():
        kept = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
        config = {"_class_name": type(scheduler).__name__, **kept}
        write_json(folder / f"{name}_scheduler_config.json", config)
    save(folder / "inputs.safetensors", {"sample": random.normal("sample", settings["shape"])})


def read(folder, settings):
    """The two configurations and the inputs of a case folder."""
    configs = {name: read_json(folder / f"{name}_scheduler_config.json") for name in CLASSES}
    return configs, load(folder / "inputs.safetensors")


def expected(configs, inputs, settings, dtype=torch.float32):
    """Sigmas, timesteps, velocities and samples of every number of steps."""
    found = {}
    for name, config in configs.items():
        for count in settings["steps"]:
            scheduler = CLASSES[name].from_config(config)
            # The schedule belongs to the method and stays float32 in the float64 run.
            with widening(False):
                scheduler.set_timesteps(count)
            sigmas = scheduler.sigmas.clone()
            scheduler.sigmas = sigmas.to(dtype)
            sample = inputs["sample"].to(dtype)
            velocities, samples = [], []
            for timestep in scheduler.timesteps:
                velocities.append(velocity(sample, timestep))
                sample = scheduler.step(velocities[-1], timestep, sample, return_dict=False)[0]
                samples.append(sample)
            prefix = f"{name}.n{count}"
            found[f"{prefix}.sigmas"] = sigmas
            found[f"{prefix}.timesteps"] = scheduler.timesteps.clone()
            found[f"{prefix}.model_outputs"] = torch.stack(velocities)
            found[f"{prefix}.samples"] = torch.stack(samples)
    return found


def remarks(model, inputs, found, settings):
    """The formula, for meta.json."""
    return {"fake_model": FORMULA}
