"""Random scheduler configurations as people have them, for compare.py and make_chains.py."""
import numpy as np

BETAS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012), "squaredcos_cap_v2": (1e-4, 0.02), "sigmoid": (1e-4, 0.02),
         "laplace": (1e-4, 0.02), "exp": (1e-4, 0.02)}
CLASSES = ["DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler",
           "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"]


def random_config(r, name):
    """A configuration of the class `name` out of the numpy generator r; the steps to take with it."""
    chance = lambda p: bool(r.random() < p)
    one_of = lambda *choices: choices[r.integers(len(choices))]
    c = {"_class_name": name, "_diffusers_version": "0.42.1"}
    total = one_of(1000, 1000, 1000, 400, 100)
    if total != 1000 or chance(0.5):
        c["num_train_timesteps"] = total
    schedule = one_of("linear", "scaled_linear", "squaredcos_cap_v2")
    if name == "DDPMScheduler" and chance(0.3):
        schedule = one_of("sigmoid", "laplace")
    if name == "HeunDiscreteScheduler" and chance(0.2):
        schedule = "exp"
    if chance(0.75):
        c["beta_schedule"] = schedule
        if chance(0.7):
            c["beta_start"], c["beta_end"] = BETAS[schedule]
    if chance(0.12):
        c["trained_betas"] = (np.linspace(1e-3, 0.03, total) * (1 + 0.2 * np.sin(np.arange(total)))).tolist()
    elif chance(0.2):
        c["trained_betas"] = None
    predictions = ["epsilon", "epsilon", "v_prediction"] + ([] if name == "EulerAncestralDiscreteScheduler" else ["sample"])
    if chance(0.8):
        c["prediction_type"] = one_of(*predictions)
    if chance(0.75):
        c["timestep_spacing"] = one_of("leading", "linspace", "trailing")
    if chance(0.4):
        c["steps_offset"] = one_of(0, 1, 1, 3)
    if name != "HeunDiscreteScheduler" and chance(0.3):
        c["rescale_betas_zero_snr"] = chance(0.7)
    if name in ("DDPMScheduler", "DDIMScheduler", "HeunDiscreteScheduler"):
        if chance(0.6):
            c["clip_sample"] = chance(0.5)
        if chance(0.3):
            c["clip_sample_range"] = one_of(0.5, 1.0, 2.0)
    elif chance(0.2):
        c["clip_sample"] = True  # of another class: changes nothing
    if name in ("DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler") and chance(0.3):
        c["thresholding"] = True
        c["dynamic_thresholding_ratio"] = one_of(0.995, 0.9, 0.7)
        c["sample_max_value"] = one_of(1.0, 1.5, 100.0)
    if name == "DDPMScheduler" and chance(0.6):
        c["variance_type"] = one_of("fixed_small", "fixed_small_log", "fixed_large", "fixed_large")
    if name == "DDIMScheduler" and chance(0.6):
        c["set_alpha_to_one"] = chance(0.4)
    if name in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler") and chance(0.4):
        c["final_sigmas_type"] = one_of("zero", "sigma_min")
    if name in ("EulerDiscreteScheduler", "HeunDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        if chance(0.45):
            c[one_of("use_karras_sigmas", "use_karras_sigmas", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")] = True
            if chance(0.3):
                c["sigma_min"], c["sigma_max"] = one_of((0.05, 20.0), (0.01, 80.0))
        elif name == "DPMSolverMultistepScheduler" and chance(0.2):
            c["use_lu_lambdas"] = True
    if name == "EulerDiscreteScheduler":
        if chance(0.1):
            c["interpolation_type"] = one_of("linear", "log_linear")
        if chance(0.15):
            c["timestep_type"] = one_of("discrete", "continuous")
    if name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        if chance(0.6):
            c["solver_order"] = one_of(1, 2, 3)
        if chance(0.5):
            c["solver_type"] = one_of("midpoint", "heun") if name.startswith("DPM") else one_of("bh1", "bh2")
        if chance(0.3):
            c["lower_order_final"] = chance(0.5)
        c["flow_shift"] = 1.0
        if chance(0.05):
            c["use_flow_sigmas"] = True
    if name == "DPMSolverMultistepScheduler":
        if chance(0.6):
            c["algorithm_type"] = one_of("dpmsolver++", "sde-dpmsolver++", "dpmsolver++", "sde-dpmsolver++", "dpmsolver")
            if c["algorithm_type"] == "dpmsolver":
                c["final_sigmas_type"] = "sigma_min"
        if chance(0.3):
            c["lambda_min_clipped"] = one_of(-float("inf"), -5.1, -3.0)
        if chance(0.2):
            c["euler_at_final"] = True
        if chance(0.3):
            c["variance_type"] = None
    if name == "UniPCMultistepScheduler":
        if chance(0.2):
            c["disable_corrector"] = one_of([], [], [0])
        if chance(0.2):
            c["predict_x0"] = chance(0.7)
    return c, int(one_of(4, 5, 6, 7, 8))
