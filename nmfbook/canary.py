"""One tiny network, trained once, by which a change of the package is noticed that would move what the ledger holds.

    python -m nmfbook canary  # after MEASUREMENT has risen: write anew what measuring it gives
"""

import json
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

from nmfcore.examples import randomized_labels

from . import files
from .architectures import memorization_network
from .experiments import data, memorizing_networks
from .ledger import LEDGER
from .measuring import DIGITS
from .records import rounded
from .training import History

JOB = memorizing_networks.Job(data="digits", width=1 / 16, p=0.4, seed=0, per_class=50, decay=0.98, precision="float32")
WEIGHTS, EXPECTED = LEDGER / "canary.safetensors", LEDGER / "canary.json"


def measured() -> dict:
    """What the ledger's own code measures on the stored weights, with its version."""
    given = data.load(JOB.data, JOB.per_class)
    model = memorization_network("cifar10", shape=given.inputs.shape[1:], width=JOB.width, seed=JOB.seed).eval()
    model.load_state_dict(load_file(WEIGHTS))
    labels = randomized_labels(given.labels, JOB.p, given.classes, seed=JOB.seed)
    trained = memorizing_networks.Trained(model, labels, History(accuracy=[1.0]))
    found = rounded(memorizing_networks.measure(JOB, trained), DIGITS)
    return {"measurement": memorizing_networks.MEASUREMENT, **found}


def renew() -> int:
    """Train the network if there are no weights, and write what measuring it gives; returns an exit status."""
    if not WEIGHTS.exists():
        with tempfile.TemporaryDirectory() as folder:
            trained = memorizing_networks.train(JOB, Path(folder))
        LEDGER.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in trained.model.state_dict().items()}, WEIGHTS)
    files.save_text(json.dumps(measured(), separators=(",", ":")) + "\n", EXPECTED)
    return 0
