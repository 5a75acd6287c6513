import pytest
import torch


@pytest.fixture
def one_thread():
    """For nets that are too small to share out: with every core busy elsewhere, waiting costs a hundredfold."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
