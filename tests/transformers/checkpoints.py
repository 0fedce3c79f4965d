"""Tiny checkpoints with weights drawn by chance: they write nonsense, and the same nonsense for the same question."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CONTEXT = 256
IMAGE = "<image>"
IMAGE_SIDE = 32
PATCH_SIDE = 16
IMAGE_TOKENS = (IMAGE_SIDE // PATCH_SIDE) ** 2

WORDS = [f"w{number}" for number in range(200)]
"""Each is a token of the language model's, so a text has the same tokens when it is read again."""

_SPECIAL = ["<s>", "</s>", IMAGE, "<|user|>", "<|assistant|>", "<|system|>"]
_UNKNOWN = "<unknown>"
_TEXT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] not in ['user', 'assistant', 'system'] %}{{ raise_exception('no such role') }}{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# As llava-hf's: without the token that begins a text.
_IMAGE_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def save_language_model(folder: Path) -> Path:
    """A Llama. Returns: the folder."""
    tokenizer = _words()
    torch.manual_seed(1)
    transformers.LlamaForCausalLM(_language(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_llava(folder: Path) -> Path:
    """A CLIP in front of a Llama. Returns: the folder."""
    tokenizer = _characters()
    image_token = tokenizer.convert_tokens_to_ids(IMAGE)
    vision = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_SIDE,
        patch_size=PATCH_SIDE,
        projection_dim=16,
    )
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=_language(tokenizer),
        image_token_id=image_token,
        image_seq_length=IMAGE_TOKENS,
    )
    torch.manual_seed(1)
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    side = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIDE}, crop_size=side),
        tokenizer=tokenizer,
        patch_size=PATCH_SIDE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_IMAGE_TEMPLATE,
    ).save_pretrained(folder)
    return folder


def save_gemma(folder: Path) -> Path:
    """A SigLIP in front of a Gemma, whose prompts have one token for an image, which becomes others.

    Returns: the folder.
    """
    marks = {"image_token": "<soft>", "boi_token": "<image-begins>", "eoi_token": "<image-ends>"}
    tokenizer = _characters(*marks.values(), extra_special_tokens=marks)
    begin, end, soft = (
        tokenizer.convert_tokens_to_ids(marks[name]) for name in ("boi_token", "eoi_token", "image_token")
    )
    language = transformers.Gemma3TextConfig(
        **_language(tokenizer).to_dict() | {"head_dim": 8, "model_type": "gemma3_text"}
    )
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": IMAGE_SIDE,
        "patch_size": PATCH_SIDE,
    }
    config = transformers.Gemma3Config(
        text_config=language,
        vision_config=vision,
        mm_tokens_per_image=IMAGE_TOKENS,
        boi_token_index=begin,
        eoi_token_index=end,
        image_token_index=soft,
        # Else a model that has learnt nothing says the last token again.
        tie_word_embeddings=False,
    )
    torch.manual_seed(1)
    model = transformers.Gemma3ForConditionalGeneration(config)
    # A new one is blind: it begins with zeros there.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    model.save_pretrained(folder)
    transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessorPil(size={"height": IMAGE_SIDE, "width": IMAGE_SIDE}),
        tokenizer=tokenizer,
        image_seq_length=IMAGE_TOKENS,
        chat_template=_IMAGE_TEMPLATE.replace("<image>", marks["boi_token"]),
    ).save_pretrained(folder)
    return folder


def _language(tokenizer: Any) -> Any:
    return transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        # Far apart, so that the likeliest token is so by far.
        initializer_range=0.6,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )


def _words() -> Any:
    vocabulary = [*_SPECIAL, _UNKNOWN, *WORDS]
    raw = Tokenizer(models.WordLevel({word: number for number, word in enumerate(vocabulary)}, unk_token=_UNKNOWN))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(_SPECIAL)
    return _for_the_library(raw, chat_template=_TEXT_TEMPLATE)


def _characters(*special: str, **how: Any) -> Any:
    """As byte-level tokenizers write them, in which a space is a letter of its own."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = [*map(chr, range(33, 127)), "Ġ", "Ċ"]
    raw.train_from_iterator([], trainers.BpeTrainer(special_tokens=[*_SPECIAL, *special], initial_alphabet=alphabet))
    return _for_the_library(raw, **how)


def _for_the_library(raw: Any, **how: Any) -> Any:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", **how)
