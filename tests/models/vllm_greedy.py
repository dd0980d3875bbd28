"""Greedy continuations by vLLM; run by an interpreter that has vLLM, and may lack everything else.

Reads `{"checkpoint": directory, "prompts": [[id, ...], ...], "max_tokens": n}` from standard input;
the last line of its standard output is the new ids, `[[id, ...], ...]`, in the prompts' order.
"""

from __future__ import annotations

import json
import os
import sys

# Read by vLLM and torch as they are imported.
os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process: starts in seconds
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; the default is a share of the machine's memory
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TORCHDYNAMO_DISABLE": "1",  # compiling the sampling helpers takes longer than the sampling
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


def main() -> None:
    from vllm import LLM, SamplingParams

    request = json.load(sys.stdin)
    llm = LLM(
        model=request["checkpoint"],
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=8,
        seed=0,
        generation_config="vllm",  # not the checkpoint's, which could change the settings below
    )
    settings = SamplingParams(
        temperature=0.0, max_tokens=request["max_tokens"], ignore_eos=True, detokenize=False
    )
    prompts = [{"prompt_token_ids": ids} for ids in request["prompts"]]
    outputs = llm.generate(prompts, settings, use_tqdm=False)
    print(json.dumps([list(output.outputs[0].token_ids) for output in outputs]), flush=True)


if __name__ == "__main__":
    main()
