"""The torch target on CUDA GPUs: few kernels a layer, captured as CUDA graphs."""
