"""A CurioSFT step as one would write it in PyTorch: the yardstick for ours.

A transformers model with SDPA and gradient checkpointing, logits of a whole micro-batch, Figure 6,
log-softmax, AdamW. On a GPU the forward pass runs in bfloat16, either by autocast over float32
weights (what our step keeps, too) or on weights that are bfloat16 themselves.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from speed.figure6 import figure6


class Reference:
    """Student, teacher and optimiser; `step()` trains on all micro-batches once.

    Args:
      job: `hf_config` of the model, or `weights`, a checkpoint; `arrays` of `packed_rows`; numbers
        of the objective and of the optimiser.
      half: keep weights, moments and teacher in bfloat16.
    """

    def __init__(self, job: dict[str, Any], arrays: dict[str, np.ndarray], *, half: bool):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        gpu = self.device.type == "cuda"
        self.job, self.alpha, self.steps_done = job, float(job["alpha"]), 0
        dtype = torch.bfloat16 if half else torch.float32
        self.autocast = gpu and not half
        options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa"}
        with self.device:
            if job["weights"]:
                model = AutoModelForCausalLM.from_pretrained(job["weights"], **options)
            else:
                values = dict(job["hf_config"])
                config = AutoConfig.for_model(values.pop("model_type"), **values)
                model = AutoModelForCausalLM.from_config(config, **options)
        self.student = model.to(self.device)
        self.student.config.use_cache = False
        self.teacher = copy.deepcopy(self.student).eval().requires_grad_(False)
        self.student.train()
        # The first name is transformers' of late, the second is older.
        names = "activation_checkpointing_enable", "gradient_checkpointing_enable"
        name = next(name for name in names if hasattr(self.student, name))
        getattr(self.student, name)({"use_reentrant": False})
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(),
            lr=job["learning_rate"],
            betas=tuple(job["betas"]),
            eps=job["eps"],
            weight_decay=job["weight_decay"],
            fused=gpu,
        )
        self.batches = [
            {name: torch.from_numpy(x[i]).to(self.device).long() for name, x in arrays.items()}
            for i in range(len(arrays["tokens"]))
        ]
        self.single = bool(job["single"])
        self.count = float(arrays["loss_mask"].sum())

    def step(self) -> float:
        """One optimiser update; returns the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for batch in self.batches:
            loss = self._loss(batch)
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.job["max_grad_norm"])
        self.optimizer.step()
        self.steps_done += 1
        if self.steps_done % self.job["teacher_every"] == 0:
            self._move_teacher()
        return float(total)  # waits for the device

    def _loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        kept = batch["loss_mask"] > 0
        labels = batch["labels"][kept][:, None]
        with torch.no_grad():
            logits = self._logits(self.teacher, batch)[kept].float()
            tau = figure6(logits, **self.job["search"])
            target = torch.log_softmax(logits / tau[:, None], dim=-1).gather(1, labels)
            del logits
        logits = self._logits(self.student, batch)[kept].float()
        log_prob = torch.log_softmax(logits, dim=-1).gather(1, labels)
        losses = -log_prob + self.alpha / 2 * (log_prob - target) ** 2
        return losses.sum() / self.count

    def _logits(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        context = (
            torch.autocast(self.device.type, torch.bfloat16)
            if self.autocast
            else contextlib.nullcontext()
        )
        mask = None  # SDPA's own causal mask
        if not self.single:
            ids = batch["segment_ids"]
            same = ids[:, :, None] == ids[:, None, :]
            mask = torch.tril(same)[:, None]
        with context:
            return model(
                input_ids=batch["tokens"],
                position_ids=batch["positions"],
                attention_mask=mask,
                use_cache=False,
            ).logits

    @torch.no_grad()
    def _move_teacher(self) -> None:
        pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
        for teacher, student in pairs:
            teacher.lerp_(student, self.job["teacher_step_size"])
