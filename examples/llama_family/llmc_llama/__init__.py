"""Two families of models for llmc: Llama and GPT-2."""
