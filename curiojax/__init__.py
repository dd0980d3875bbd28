"""curiojax: post-training of reasoning language models in JAX, entropy-preserving SFT first."""

__version__ = "0.1.0"
