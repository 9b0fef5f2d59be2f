"""Models as small as they can be, with random weights and a tokenizer trained here."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from stages.captions.prompt import prompt
from tests.stages.captions.servers import GOOD

SIDE_PX, PATCH_PX = 28, 14
SPECIAL = ["<pad>", "<s>", "</s>", "<image>", "<|startoftext|>", "<|endoftext|>"]
CHAT = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def tokenizer(**more):
    """Train a byte-level BPE on the prompts and one answer."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    texts = [prompt(name).system + prompt(name).user for name in ("picture", "parts")]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator([*texts, GOOD], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", **more)


def images():
    size = {"height": SIDE_PX, "width": SIDE_PX}
    return CLIPImageProcessor(size={"shortest_edge": SIDE_PX}, crop_size=size)


def vision():
    return {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": SIDE_PX, "patch_size": PATCH_PX,
    }  # fmt: skip


def save_vlm(home):
    """Save a LLaVA of some ten thousand numbers; return its reference."""
    words = tokenizer(bos_token="<s>", eos_token="</s>")
    text = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=2048,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision()), text_config=text,
        image_token_index=words.convert_tokens_to_ids("<image>"), vision_feature_layer=-1,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(8)  # or every picture would look alike to it
    model.save_pretrained(home)
    processor = LlavaProcessor(
        images(), words, patch_size=PATCH_PX, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=CHAT,
    )  # fmt: skip
    processor.save_pretrained(home)
    return f"file:{home}"


def save_clip(home):
    """Save a CLIP as small; return its reference."""
    words = tokenizer(bos_token="<|startoftext|>", eos_token="<|endoftext|>")
    words.model_max_length = 32
    text = {
        "vocab_size": len(words), "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32,
        "bos_token_id": 4, "eos_token_id": 5, "pad_token_id": 0,
    }  # fmt: skip
    config = CLIPConfig(text_config=text, vision_config=vision(), projection_dim=8)
    CLIPModel(config).save_pretrained(home)
    CLIPProcessor(images(), words).save_pretrained(home)
    return f"file:{home}"
