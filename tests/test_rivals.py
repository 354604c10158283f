"""The other methods' objectives: their papers' formulas, on any number of processes."""

import math
from itertools import combinations, permutations

import pytest
import torch
from ranks import on_ranks
from torch import nn
from torch.nn.functional import normalize

from pnp.distributed import all_sum, gloo_group
from pnp.errors import UserError
from pnp.networks import EMATeacher, Network, head, projector
from pnp.rivals import DINO, BarlowTwins, LeJEPA, NegativeCosine, SimCLR, VICReg, VISReg
from pnp.seeds import step_seed

K = 6  # outputs
CENTRE = torch.linspace(-0.5, 0.5, K, dtype=torch.float64)


def draw(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- the papers' formulas, loop by loop ---------------------------------------------------------


def dino(student, teacher, heat):
    total = 0.0
    for v, w in permutations(range(len(student)), 2):
        if w < len(teacher):
            target = ((teacher[w] - CENTRE) / heat).softmax(-1)
            total += -(target * (student[v] / 0.1).log_softmax(-1)).sum(-1).mean()
    return total / (len(teacher) * (len(student) - 1))


def negative_cosine(student, teacher):
    pairs = [(v, w) for v, w in permutations(range(len(student)), 2) if w < len(teacher)]
    cosines = [
        (normalize(student[v], dim=-1) * normalize(teacher[w], dim=-1)).sum(-1).mean()
        for v, w in pairs
    ]
    return -sum(cosines) / len(pairs)


def pair_mean(loss):
    def over_pairs(student, teacher):
        pairs = list(combinations(student, 2))
        return sum(loss(a, b) for a, b in pairs) / len(pairs)

    return over_pairs


@pair_mean
def nt_xent(a, b, temperature=0.2):
    z = normalize(torch.cat([a, b]), dim=-1)
    total = 0.0
    for i in range(len(z)):
        logits = z @ z[i] / temperature
        others = torch.arange(len(z)) != i
        total += logits[others].logsumexp(0) - logits[(i + len(a)) % len(z)]
    return total / len(z)


@pair_mean
def vicreg(a, b):
    n, d = a.shape
    loss = 25.0 * ((a - b) ** 2).sum() / (n * d)
    for z in (a, b):
        z = z - z.mean(0)
        sigma = ((z**2).sum(0) / (n - 1) + 1e-4).sqrt()
        covariance = z.T @ z / (n - 1)
        off = covariance - covariance.diagonal().diag()
        loss = loss + 25.0 / 2 * (1 - sigma).clamp(min=0).mean() + (off**2).sum() / d
    return loss


@pair_mean
def barlow(a, b):
    a, b = ((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in (a, b))
    c = a.T @ b / len(a)
    off = c - c.diagonal().diag()
    return ((1 - c.diagonal()) ** 2).sum() + 5e-3 * (off**2).sum()


def lejepa(student, teacher, epoch=0.25, slices=32):
    invariance = ((student - student[: len(teacher)].mean(0)) ** 2).mean()
    torch.manual_seed(step_seed(*epoch.as_integer_ratio()))
    directions = normalize(torch.randn(student.shape[-1], slices, dtype=torch.float64), dim=0)
    t = torch.linspace(-3, 3, 33, dtype=torch.float64)
    normal = torch.exp(-(t**2) / 2)
    phases = torch.einsum("vnd,ds,t->vnst", student, directions, t)
    characteristic = torch.complex(phases.cos(), phases.sin()).mean(1)
    error = (characteristic - normal).abs() ** 2 * normal
    statistic = student.shape[1] * torch.trapezoid(error, t)
    return 0.95 * invariance + 0.05 * statistic.mean()


def visreg(student, teacher, epoch=0.25, slices=32):
    invariance = ((student - student[: len(teacher)].mean(0)) ** 2).mean()
    torch.manual_seed(step_seed(*epoch.as_integer_ratio()))
    directions = normalize(torch.randn(student.shape[-1], slices, dtype=torch.float64), dim=0)
    n = student.shape[1]
    normal = torch.special.ndtri(torch.arange(1, n + 1, dtype=torch.float64) / (n + 1))
    sigma = student.std(1, correction=0)
    whitened = (student - student.mean(1, keepdim=True)) / (sigma.detach()[:, None] + 1e-4)
    shape = (((whitened @ directions).sort(dim=1).values - normal[:, None]) ** 2).mean()
    spread = ((1 - sigma) ** 2).mean() + (student.mean(1) ** 2).mean()
    return 0.4 * invariance + 0.6 * (spread + shape)


def make_dino(**options):
    objective = DINO(K, warmup_temperature=0.0625, teacher_temperature=0.125, **options)
    objective.double().loss.center.copy_(CENTRE)
    return objective


REFERENCES = {
    "dino": (make_dino, lambda s, t: dino(s, t, 0.0625 + 0.0625 * 0.25 / 5)),
    "negative_cosine": (NegativeCosine, negative_cosine),
    "simclr": (SimCLR, nt_xent),
    "vicreg": (VICReg, vicreg),
    "barlow": (BarlowTwins, barlow),
    "lejepa": (lambda: LeJEPA(slices=32), lejepa),
    "visreg": (lambda: VISReg(slices=32), visreg),
}
NAMES = sorted(REFERENCES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("views", [2, 4])  # more than the teacher's two: local crops
def test_value_and_gradient_are_those_of_the_papers_formula(name, views):
    make, reference = REFERENCES[name]
    student, teacher = draw(views, 9, K).requires_grad_(), draw(2, 9, K, seed=2)
    loss = make()(student, teacher, epoch=0.25)["loss"]
    (got,) = torch.autograd.grad(loss, student)
    expected = reference(student, teacher)
    (gradient,) = torch.autograd.grad(expected, student)
    # Temperatures and SIGReg's weights are float32 in the library.
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(got, gradient, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_nothing(name):
    student, teacher = draw(2, 9, K).float(), draw(2, 9, K, seed=2).float()
    objective = REFERENCES[name][0]().float().eval()
    plain = objective(student, teacher)["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = objective(student, teacher)["loss"]
        half = objective(student.bfloat16(), teacher.bfloat16())["loss"]
    assert torch.equal(plain, cast)
    assert half.dtype == plain.dtype


def test_named_terms_add_up_to_the_loss():
    student, teacher = draw(3, 9, K), draw(2, 9, K, seed=2)
    terms = make_dino()(student, teacher)
    torch.testing.assert_close(terms["entropy"] + terms["divergence"], terms["loss"])
    terms = VICReg(invariance=2, variance=3, covariance=5)(student, teacher)
    total = 2 * terms["invariance"] + 3 * terms["variance"] + 5 * terms["covariance"]
    torch.testing.assert_close(total, terms["loss"])
    terms = LeJEPA(weight=0.2)(student, teacher)
    torch.testing.assert_close(0.8 * terms["invariance"] + 0.2 * terms["sigreg"], terms["loss"])


# --- processes ------------------------------------------------------------------------------------


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, K)).double()


def two_steps(net, objective, images):
    """Mean loss of two steps on `images` (V, N, 5), gradients of both together, and the state."""
    teacher = images[:2] @ torch.ones(5, K, dtype=torch.float64).tril()
    losses = [objective(net(images), teacher, epoch=epoch)["loss"] for epoch in (0.25, 0.5)]
    (losses[0] + losses[1]).backward()
    return (losses[0] + losses[1]).detach(), [p.grad for p in net.parameters()]


SPLITS = {"equal": (6, 6), "unequal": (3, 9)}  # images of each process


def worker(index, folder):
    torch.set_num_threads(1)
    results = {}
    with gloo_group(f"{folder}/store", index, 2):
        for split, sizes in SPLITS.items():
            images = draw(3, 12, 5).split(sizes, 1)[index]
            for name in NAMES:
                net = nn.parallel.DistributedDataParallel(network())
                objective = REFERENCES[name][0]()
                loss, gradients = two_steps(net, objective, images)
                results[f"{name}, {split}"] = (all_sum(loss) / 2, gradients, objective.state_dict())
        torch.save(results, f"{folder}/{index}.pt")


def test_two_processes_give_loss_gradient_and_state_of_one_on_the_global_batch(tmp_path):
    on_ranks(worker, str(tmp_path))
    for index in range(2):
        results = torch.load(tmp_path / f"{index}.pt", weights_only=True)
        assert len(results) == len(NAMES) * len(SPLITS)
        for case, (loss, got, state) in results.items():
            net, objective = network(), REFERENCES[case.split(",")[0]][0]()
            expected, gradients = two_steps(net, objective, draw(3, 12, 5))
            torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12, msg=case)
            for a, b in zip(got, gradients, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-12, msg=case)
            for key, value in objective.state_dict().items():
                torch.testing.assert_close(state[key], value, rtol=0, atol=1e-12, msg=case)


# --- schedules and state --------------------------------------------------------------------------


def test_the_teachers_temperature_rises_linearly_and_stays():
    objective = DINO(K, warmup_temperature=0.04, teacher_temperature=0.07, warmup_epochs=10)
    heats = [objective.temperature(epoch) for epoch in (0, 2.5, 5, 10, 90)]
    assert heats == pytest.approx([0.04, 0.0475, 0.055, 0.07, 0.07])
    assert DINO(K, teacher_temperature=0.05, warmup_epochs=0).temperature(0) == 0.05


def test_the_centre_moves_once_per_call_in_training_and_never_in_evaluation():
    objective, student, teacher = DINO(K, center_momentum=0.75), draw(4, 9, K), draw(2, 9, K)
    objective.double()
    objective(student, teacher)
    mean = teacher.mean((0, 1))
    torch.testing.assert_close(objective.loss.center.flatten(), 0.25 * mean)
    objective(student, teacher)
    torch.testing.assert_close(objective.loss.center.flatten(), (1 - 0.75**2) * mean)
    before = objective.loss.center.clone()
    first, second = (objective.eval()(student, teacher)["loss"] for _ in range(2))
    assert torch.equal(objective.loss.center, before)
    assert torch.equal(first, second)


def test_the_centre_survives_a_checkpoint():
    objective = DINO(K)
    objective(draw(2, 9, K).float(), draw(2, 9, K, seed=2).float())
    resumed = DINO(K)
    resumed.load_state_dict(objective.state_dict())
    batch = draw(2, 9, K, seed=3).float(), draw(2, 9, K, seed=4).float()
    assert torch.equal(resumed(*batch)["loss"], objective(*batch)["loss"])
    assert not torch.equal(resumed(*batch)["loss"], DINO(K)(*batch)["loss"])


def test_an_even_teacher_has_entropy_log_k():
    terms = DINO(K)(draw(2, 9, K), 0 * draw(2, 9, K))
    assert float(terms["entropy"]) == pytest.approx(math.log(K))


def test_sigreg_draws_by_the_epoch_alone_and_leaves_the_global_stream_as_it_was():
    objective, z = LeJEPA(), draw(2, 9, K)
    torch.manual_seed(5)
    one, random = objective(z, z, epoch=0.5)["sigreg"], torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(random, torch.rand(3))
    assert torch.equal(one, objective(z, z, epoch=0.5)["sigreg"])
    assert not torch.equal(one, objective(z, z, epoch=0.75)["sigreg"])


# --- golden curves --------------------------------------------------------------------------------

WIDE = {"hidden": 16, "out": 16}
# objective, projector, head, teacher, losses of five steps
GOLDEN = {
    "dino": (
        lambda: DINO(12),
        {"out": 8},
        {"kind": "prototypes", "count": 12},
        "ema",
        [1.699508, 1.188283, 1.969459, 1.93989, 1.746068],
    ),
    "byol": (
        NegativeCosine,
        {"out": 8},
        {"kind": "predictor", "hidden": 16},
        "ema",
        [-0.1914871, -0.3385326, -0.2829105, -0.4271717, -0.4765536],
    ),
    "simsiam": (
        NegativeCosine,
        {**WIDE, "last_norm": True},
        {"kind": "predictor"},
        "stop_gradient",
        [0.0432139, 0.01906249, -0.01037282, -0.03767162, -0.01939377],
    ),
    "simclr": (
        SimCLR,
        {"out": 8},
        None,
        "none",
        [2.601058, 2.005742, 1.971671, 1.943526, 1.586868],
    ),
    "vicreg": (VICReg, WIDE, None, "none", [18.30191, 15.67363, 14.04185, 13.14298, 10.95335]),
    "barlow": (
        BarlowTwins,
        WIDE,
        None,
        "none",
        [1.605128, 0.5653725, 0.8599499, 0.7806905, 0.3852971],
    ),
    "lejepa": (
        LeJEPA,
        {"out": 8},
        None,
        "none",
        [0.3601289, 0.3494686, 0.3321642, 0.3382083, 0.3370209],
    ),
}


def curve(make, mlp, top, kind):
    """Losses of five SGD steps of a tiny network on two noisy views of 24 points."""
    torch.manual_seed(0)
    net = Network(
        nn.Sequential(nn.Linear(12, 16), nn.Tanh()),
        projector(16, layers=2, **{"hidden": 16, **mlp}),
        top and head(dim=mlp["out"], **top),
        normalize=top is not None and top["kind"] == "prototypes",
    ).double()
    predicts = top is not None and top["kind"] == "predictor"
    teacher = EMATeacher(net, 0.9, "head" if predicts else None)
    objective = make()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    losses = []
    for step in range(5):
        images = draw(24, 12) + 0.5 * draw(2, 24, 12, seed=10 + step)
        _, z = zip(*(net.encode(view) for view in images), strict=True)
        z = torch.stack(z)
        outputs = net.outputs(z)
        target = (z if kind == "stop_gradient" else outputs).detach()
        if kind == "ema":
            with torch.no_grad():
                t = torch.stack([teacher.network.encode(view)[1] for view in images])
                target = teacher.network.outputs(t)
        loss = objective(outputs, target, epoch=step / 2)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        teacher.update(net, step, 5)
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("name", GOLDEN)
def test_five_steps_give_the_losses_they_always_gave(name):
    *setting, golden = GOLDEN[name]
    assert curve(*setting) == pytest.approx(golden, rel=1e-4)


# --- the command line and bad input ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "objective", "teacher", "top"),
    [
        ("pnp", "PNP", "ema", None),
        ("dino", "DINO", "ema", "Prototypes"),
        ("byol", "NegativeCosine", "ema", "Sequential"),
        ("simsiam", "NegativeCosine", "stop_gradient", "Sequential"),
        ("simclr", "SimCLR", "none", None),
        ("vicreg", "VICReg", "none", None),
        ("barlow", "BarlowTwins", "none", None),
        ("lejepa", "LeJEPA", "none", None),
        ("visreg", "VISReg", "none", None),
    ],
)
def test_a_method_is_its_objective_teacher_and_head_and_takes_steps(
    compose, method, objective, teacher, top
):
    from pnp.cli.train import train
    from pnp.runs.config import plain
    from pnp.runs.parts import parts

    local = ["views.local=2"] if method in ("pnp", "dino") else []
    cfg = compose(f"method={method}", "trainer.fast_dev_run=true", "evaluation.test=false", *local)
    _, module, _ = parts(plain(cfg))
    assert type(module.objective).__name__ == objective
    assert module.kind == teacher
    assert (type(module.student.head).__name__ if top else module.student.head) == top
    train(cfg)


def test_an_objective_chosen_on_the_command_line_wins_over_the_methods():
    from pnp.runs.config import compose

    cfg = compose("train", ["method=simclr", "objective=vicreg"])
    assert cfg.objective._target_ == "pnp.rivals.VICReg"
    assert cfg.method.teacher == "none"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DINO(1), "count=1: give a whole number, at least 2"),
        (
            lambda: DINO(student_temperature=0),
            "student_temperature=0: give a fin",
        ),
        (lambda: DINO(warmup_temperature=-0.1), "warmup_temperature=-0.1"),
        (lambda: DINO(teacher_temperature=math.nan), "teacher_temperature=nan"),
        (lambda: DINO(warmup_epochs=-1), "warmup_epochs=-1"),
        (lambda: DINO(center_momentum=1.5), "center_momentum=1.5: give a number in .0, 1."),
        (lambda: SimCLR(temperature=0), "temperature=0"),
        (lambda: VICReg(covariance=-1), "covariance=-1"),
        (lambda: VICReg(eps=0), "eps=0"),
        (lambda: BarlowTwins(redundancy=math.inf), "redundancy=inf"),
        (lambda: LeJEPA(weight=2), "weight=2"),
        (lambda: LeJEPA(slices=0), "slices=0"),
        (lambda: LeJEPA(knots=1), "knots=1"),
        (lambda: VISReg(weight=-1), "weight=-1"),
        (lambda: VISReg(slices=0), "slices=0"),
    ],
)
def test_an_option_out_of_range_is_a_user_error_that_names_it(make, message):
    with pytest.raises(UserError, match=rf"^objective\..*{message}|^objective\.{message}"):
        make()


@pytest.mark.parametrize("name", NAMES)
def test_one_view_is_a_user_error(name):
    with pytest.raises(UserError, match="at least 2"):
        REFERENCES[name][0]()(draw(1, 9, K), draw(1, 9, K))


@pytest.mark.parametrize("name", ["simclr", "vicreg", "barlow", "lejepa", "visreg"])
def test_one_image_is_a_user_error(name):
    with pytest.raises(UserError, match="at least 2 views of 2 images, got 2 of 1"):
        REFERENCES[name][0]()(draw(2, 1, K), draw(2, 1, K))


def test_dino_without_its_head_is_a_user_error_that_says_what_to_choose():
    with pytest.raises(UserError, match=r"2048 prototypes .* size 6: use method=dino"):
        DINO()(draw(2, 9, K), draw(2, 9, K))
