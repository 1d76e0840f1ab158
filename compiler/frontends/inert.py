"""Config keys that cannot change a step's logits, whatever the family: metadata, training, generation."""

INERT_KEYS = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _name_or_path architectures attn_implementation
    auto_map custom_pipelines finetuning_task gradient_checkpointing id2label initializer_range label2id model_type
    name num_labels output_attentions output_hidden_states output_scores prefix problem_type return_dict
    return_dict_in_generate task_specific_params tf_legacy_loss tokenizer_class tokenizer_name torchscript
    transformers_version use_bfloat16 use_cache verbose _experts_implementation

    bos_token_id cls_token_id decoder_start_token_id eos_token_id forced_bos_token_id forced_eos_token_id mask_token_id
    pad_token_id sep_token_id unk_token_id

    bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty length_penalty max_length max_new_tokens min_length no_repeat_ngram_size num_beam_groups
    num_beams num_return_sequences remove_invalid_values repetition_penalty suppress_tokens temperature top_k top_p
    typical_p

    add_cross_attention chunk_size_feed_forward cross_attention_hidden_size is_decoder is_encoder_decoder
    tie_encoder_decoder
    """.split()
)
