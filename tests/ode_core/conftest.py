import torch

# The tensors of these tests are small: a second thread would cost more in waiting than it computes.
torch.set_num_threads(1)
