import numpy as np
import pytest
import torch

from infra.errors import BadWeights
from stages.video.masks import Masker
from stages.video.sam2 import Sam2Masker

SIDE_PX = 64


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A SAM 2 of the true architecture, tiny, with random weights."""
    from transformers import Sam2VideoConfig, Sam2VideoModel

    backbone = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1,
        "image_size": [SIDE_PX, SIDE_PX], "blocks_per_stage": [1, 2, 1, 1],
        "embed_dim_per_stage": [8, 16, 24, 32], "num_attention_heads_per_stage": [1, 1, 1, 1],
        "window_size_per_stage": [4, 4, 4, 4], "global_attention_blocks": [2],
        "window_positional_embedding_background_size": [4, 4],
    }  # fmt: skip
    config = Sam2VideoConfig(
        vision_config={
            "model_type": "sam2_vision_model", "backbone_config": backbone, "fpn_hidden_size": 128,
            "backbone_channel_list": [32, 24, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        prompt_encoder_config={"hidden_size": 128, "image_size": SIDE_PX, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 128, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32,
        },
        image_size=SIDE_PX, memory_attention_hidden_size=128, memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=128, memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=128, memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=128, memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=64, memory_fuser_num_layers=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("sam2")
    torch.manual_seed(0)
    Sam2VideoModel(config).save_pretrained(folder)
    return folder


def test_every_frame_has_a_mask_of_its_size(tiny):
    masker = Sam2Masker(f"file:{tiny}")
    assert isinstance(masker, Masker)
    rng = np.random.default_rng(0)
    frames = list(rng.integers(0, 255, (5, 48, 80, 3), np.uint8))
    boxes = np.float32([[10, 10, 40, 40], [12, 10, 42, 40]])
    points = np.zeros((2, 5, 2), np.float32)
    masks = masker.masks(frames, np.array([1, 3]), boxes, points)
    assert masks.shape == (5, 48, 80)
    assert masks.any()
    again = masker.masks(frames, np.array([1, 3]), boxes, points)
    assert (again == masks).all()


def test_a_track_without_looks_has_no_masks(tiny):
    frames = [np.zeros((48, 80, 3), np.uint8)]
    none = np.zeros(0, int), np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32)
    assert not Sam2Masker(f"file:{tiny}").masks(frames, *none).any()


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(BadWeights, match="is no SAM 2 folder"):
        Sam2Masker(f"file:{tmp_path}")
    with pytest.raises(BadWeights, match="does not exist"):
        Sam2Masker(f"file:{tmp_path}/gone")
