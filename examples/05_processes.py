"""Train an SAE in several processes: torchrun --nproc-per-node 2 05_processes.py. Started by python, it is one."""

import torch
from torch import distributed

from bilens import sae
from bilens.sae.distributed import Ranks

ranks = None
if distributed.is_torchelastic_launched():
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    ranks = Ranks()

vectors = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0))  # the same in every process
stream = sae.TensorStream(vectors, batch_size=500)  # of which each process takes its share
coder = sae.TopKSAE(16, 64, k=4)
history = sae.train(coder, stream, steps=40, lr=1e-2, processes=ranks, progress=False)  # checkpoint="file" to go on

if ranks is None or ranks.lead:
    print(f"NMSE {float(history['nmse'][-1]):.3f} after {int(history.steps[-1])} steps")
if ranks is not None:
    distributed.barrier()  # nobody leaves while another still listens
    distributed.destroy_process_group()
