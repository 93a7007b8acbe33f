"""Training of a model of conformers: states from trajectories, Gaussian reference of internal motions, network, model folder."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...data.normalise import Normalisation
from ...data.superpose import centred
from ...gaussian.reference import GaussianReference
from ...schema.layout import Coordinate, conformer_layout
from ...store.shard import write_samples
from ...theory.bases import EOF
from ...theory.process import by_name
from ..card import HELD_OUT, TOPOLOGY, load_model, save_model
from ..config import ConformerNetworkConfig, ConformerTrainConfig
from ..denoiser import GaussianDenoiser
from ..networks.pairs import make_conformer_network
from ..networks.unet import count_parameters
from ..packing import pack_gate, pack_regression
from ..record import GIVEN, MoleculeCard, VariableCard, read_card
from ..registry import CARD, find_model
from .checkpoint import TrainingState, copied, put
from .conditioned import Conditioned
from .conformer_data import ConformerData, Initial, condition_conformers, read_conformers
from .energy_targets import conformer_targets
from .fields import Report, Stop, fit_network, never, say
from .model_folder import make_card

SMALLEST = 1e-8  # smallest variance of a mode, relative to the largest one


def train_conformers(
    config: ConformerTrainConfig, *, root: Path = Path(), report: Report = say, stop: Stop = never, afterwards: int = 0
) -> Path:
    """Train a model of conformers and write it to the folder `config.output`; trajectories are found from `root`.

    An interrupted run continues from the checkpoints beside its output. `stop` is called after every step and returns
    whether, and why, to stop. The time limit leaves room for `afterwards` rows of the network after training. Raises
    ValueError for data or settings that cannot be used, StopRequested after a stop.
    """
    initial = None if config.initial is None else _initial(config.initial)
    data = read_conformers(config.data, root, seed=config.seed, initial=initial, condition=config.condition)
    left_out = ", ".join(f"{number} {reason}" for reason, number in data.excluded.items())
    report(f"{len(data.train)} training, {len(data.validation)} validation, {len(data.test)} test frames; left out: {left_out}")
    given = None
    if config.condition is not None:
        given = condition_conformers(data, config.condition.dropout, config.data.alignment)
        data = given.states
        report(given.words)
    if initial is None:
        denoiser = _new_denoiser(config, data, given)
    else:
        denoiser, config = initial.denoiser, config.model_copy(update={"network": initial.network})
    network, output, state = denoiser.network, Path(config.output), None
    if network is not None:
        targets = None
        if config.energy is not None:
            targets = conformer_targets(config.energy, data.train, data.normalisation, data.topology, data.constraint)
            report(f"{len(data.train)} gradients of the energy {config.energy.name}")
        report(f"{count_parameters(network)} weights to train")
        checkpoints = output.with_name(f".{output.name}.training")
        state = fit_network(denoiser, data, config, checkpoints, report, stop, afterwards=afterwards, targets=targets)
    return publish_conformers(output, config, data, denoiser, state, initial, given)


def _initial(name: str) -> Initial:
    """Load a model whose training is continued. Raises ValueError unless it is a trained model of conformers."""
    model = load_model(name)
    card = read_card(find_model(name) / CARD) if isinstance(model.denoiser, GaussianDenoiser) else None
    if model.conditioning is not None:
        raise ValueError(f"initial = {name!r}: only models without a condition can be continued, and this has one")
    if card is None or card.molecule is None or not isinstance(card.network, ConformerNetworkConfig):
        raise ValueError(f"initial = {name!r}: training can only continue a trained model of conformers, which this is not")
    assert model.denoiser is not None and isinstance(model.normalisation, Normalisation) and model.layout.topology is not None
    assert model.denoiser.network is not None
    topology, turned = model.layout.topology, card.molecule.alignment == "superposed"
    network = make_conformer_network(card.network, model.normalisation, topology, turned)  # whose weights can be trained
    put(network, copied(model.denoiser.network))
    denoiser = replace(model.denoiser, network=network)
    trained = card.process.log_snr_trained or ()
    return Initial(denoiser, card.network, model.normalisation, topology, card.molecule.alignment, trained)


def _new_denoiser(
    config: ConformerTrainConfig, data: ConformerData, given: Conditioned[ConformerData] | None
) -> GaussianDenoiser:
    """A denoiser around the Gaussian of the training states, with an untrained network if one is configured."""
    network = None
    if config.network != "none":
        superposed = config.data.alignment == "superposed"
        numbers = None if given is None else given.conditioning.num_numbers
        network = make_conformer_network(config.network, data.normalisation, data.topology, superposed, config.seed, numbers)
        network.calibrate((data if given is None else given.original).train[:20_000])
    reference = fit_conformer_reference(data.train, config.data.alignment)
    return GaussianDenoiser(by_name(config.noise.process), reference, network, None, data.constraint)


def fit_conformer_reference(states: Tensor, alignment: str) -> GaussianReference:
    """Fit a Gaussian to states [n, atoms, 3], supported on the directions in which they vary.

    Superposed states have the principal components of all coordinates. Centred ones have a covariance between atoms that
    is the same in x, y and z, since all orientations are equally likely.
    """
    fields = states.to(torch.float64)
    count, atoms, _ = fields.shape
    if alignment == "superposed":
        flat = fields.flatten(1)
        mean = flat.mean(0)
        variances, modes = torch.linalg.eigh((flat - mean).T @ (flat - mean) / count)
    else:
        mean = torch.zeros(3 * atoms, dtype=torch.float64)
        variances, shapes = torch.linalg.eigh(torch.einsum("nax,nbx->ab", fields, fields) / (3 * count))
        variances, modes = variances.repeat_interleave(3), torch.kron(shapes.contiguous(), torch.eye(3, dtype=torch.float64))
    kept = variances > SMALLEST * variances.max()
    spectrum = torch.cat([variances[kept].flip(0), torch.zeros(1, dtype=torch.float64)])
    return GaussianReference(mean, EOF(modes[:, kept].flip(1).contiguous(), (atoms, 3)), spectrum)


def publish_conformers(
    folder: Path, config: ConformerTrainConfig, data: ConformerData, denoiser: GaussianDenoiser, state: TrainingState | None,
    initial: Initial | None = None, given: Conditioned[ConformerData] | None = None,
) -> Path:  # fmt: skip
    """Score the denoiser on held-out frames, write the model folder and return it; `initial` is the model that was continued."""
    layout = conformer_layout(data.topology)
    alignment = config.data.alignment
    card = make_card(
        config,
        data,
        sum(data.excluded.values()),
        denoiser,
        state,
        normalisation=f"state = ({alignment} positions - mean_field) / scale_field, without rigid motions",
        wrap=False,
        variables=(
            VariableCard(name="coordinates", dims=("atom", "spatial"), units="nanometers", long_name="positions of atoms"),
        ),
        molecule=MoleculeCard(alignment=alignment, atoms=len(data.topology)),
        condition=None if given is None else given.card,
    )

    if initial is not None and card.process.log_snr_trained is not None:
        ends = (*initial.trained, *card.process.log_snr_trained)
        process = card.process.model_copy(update={"log_snr_trained": (min(ends), max(ends))})
        card = card.model_copy(update={"process": process})

    def more(partial: Path) -> None:
        (partial / TOPOLOGY).write_text(data.topology.to_json() + "\n", encoding="utf-8")
        shown = (
            data.held_out.positions[0]
            if len(data.held_out.file)
            else data.normalisation.decode((data if given is None else given.original).train[:1])["coordinates"][0]
        )
        (partial / "topology.pdb").write_text(data.topology.to_pdb(shown), encoding="utf-8")
        if len(data.held_out.file):
            _write_held_out(partial / HELD_OUT, config, data)
        elif config.initial is not None and (kept := find_model(config.initial) / HELD_OUT).is_file():
            shutil.copyfile(kept, partial / HELD_OUT)

    stored = getattr(torch, config.stored)
    extra = {} if given is None else pack_regression(given.conditioning.regression, tuple(layout.coordinates))
    extra |= pack_gate(denoiser.gate)
    arrays = denoiser.reference, data.normalisation, layout.coordinates, denoiser.network
    return save_model(folder, card, *arrays, extra=extra, more=more, stored=stored)


def _write_held_out(path: Path, config: ConformerTrainConfig, data: ConformerData) -> None:
    """Write evenly spaced test frames, rounded to 1e-4 nm, with their log-weights as a file of conformers."""
    frames, layout = data.held_out, conformer_layout(data.topology)
    count = len(frames.file)
    chosen = np.unique(np.linspace(0, count - 1, min(count, config.held_out_frames)).round().astype(int))
    with np.errstate(divide="ignore"):
        weights = np.log(frames.weight[chosen] / frames.weight.max())
    attributes = {"title": f"held-out dynamics behind {config.name}", "source": config.data.source}
    given = {
        f"{GIVEN}{name}": Coordinate((layout.sample_dim,), one.values[chosen], {"units": one.units})
        for name, one in frames.inputs.items()
    }
    write_samples(
        path,
        layout=replace(layout, coordinates={**layout.coordinates, **given}),
        ids=tuple(range(len(chosen))),
        fields={"coordinates": centred(frames.positions[chosen]).round(4).astype(np.float32)},
        per_sample={"log_weight": weights.astype(np.float32)},
        attributes=attributes,
        compression="zlib",
    )
