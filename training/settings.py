"""Settings of the models: one fixed set of defaults, the same tuning budget for every model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ClassWeight = Literal["none", "balanced"]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class WordEmbeddingSettings(_Settings):
    """Word2Vec (CBOW) on the training notes, section on text processing of the paper."""

    dimensions: int = Field(default=64, ge=2, le=512, description="Length of a word's vector")
    window: int = Field(default=5, ge=1, le=50, description="Context words on each side")
    min_patients: int = Field(
        default=2,
        ge=1,
        le=1000,
        description="A word in the notes of fewer training patients is unknown, such as a name that one note repeats",
    )
    max_words: int = Field(
        default=4000, ge=3, le=200_000, description="Largest vocabulary, padding and unknown included"
    )
    epochs: int = Field(default=60, ge=1, le=1000, description="Passes over the notes")
    seed: int = Field(default=2022, ge=0, le=2**31 - 1, description="Seed of Word2Vec")


class NetworkSettings(_Settings):
    """Sizes and regularisation of the neural networks."""

    units: int = Field(default=32, ge=4, le=1024, description="Length of a token and of a modality's vector")
    image_size: int = Field(
        default=32,
        ge=4,
        le=1024,
        description="Larger images are averaged down to about this side inside the network",
    )
    image_filters: tuple[int, ...] = Field(
        default=(16, 32, 32),
        min_length=1,
        max_length=6,
        description="Filters of each convolution and pooling",
    )
    time_stride: int = Field(
        default=2,
        ge=1,
        le=16,
        description="Grid steps that one time token covers (convolution before the LSTM)",
    )
    text_length: int = Field(default=96, ge=4, le=4096, description="Words of a note that are read; the rest is cut")
    train_embedding: bool = Field(default=True, description="Whether the Word2Vec vectors are trained further")
    summary: bool = Field(
        default=True, description="Give the candidate's series encoder the series' summary statistics as well"
    )
    hinges: int = Field(default=8, ge=1, le=64, description="Hinges that each summary statistic is spread over")
    clip: float = Field(default=5.0, gt=0, le=100, description="Limit of standardised values, in standard deviations")
    dropout: float = Field(default=0.3, ge=0, lt=1, description="Dropout on tokens and vectors")
    modality_dropout: float = Field(
        default=0.15,
        ge=0,
        lt=1,
        description="Chance that training hides a modality of a sample; one always stays",
    )
    word_dropout: float = Field(default=0.1, ge=0, lt=1, description="Chance that training makes a word unknown")
    image_shift: int = Field(
        default=1, ge=0, le=64, description="Largest random shift of a training image, in averaged pixels"
    )
    transformer_layers: int = Field(default=2, ge=1, le=12, description="Blocks of the transformer baseline")
    transformer_heads: int = Field(default=2, ge=1, le=16, description="Attention heads of the transformer baseline")


class OptimiserSettings(_Settings):
    """How the neural networks are fitted: Adam on categorical cross-entropy (eq. 7), early stopping."""

    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="First learning rate of Adam; cosine decay")
    weight_decay: float = Field(default=1e-3, ge=0, le=1, description="Decoupled weight decay of Adam")
    batch_size: int = Field(default=32, ge=1, le=4096, description="Samples a gradient step")
    epochs: int = Field(default=60, ge=1, le=10_000, description="Most passes over the training rows")
    patience: int = Field(
        default=12, ge=1, le=10_000, description="Epochs without a lower validation loss before stopping"
    )
    validation_fraction: float = Field(
        default=0.15, gt=0, lt=0.6, description="Part of the training patients that early stopping looks at"
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, description="Label smoothing of the cross-entropy")
    deterministic: bool = Field(default=True, description="Bit-exact TensorFlow operations")
    threads: int = Field(default=1, ge=0, le=256, description="TensorFlow threads of the process; 0 lets it choose")


class TabularSettings(_Settings):
    """The baselines on summary features."""

    image_size: int = Field(default=16, ge=2, le=128, description="Side to which images are averaged, in pixels")
    image_components: int = Field(default=16, ge=1, le=256, description="Principal components of those pixels")
    text_components: int = Field(default=24, ge=1, le=512, description="Components of the TF-IDF matrix (SVD)")
    forest_trees: int = Field(default=300, ge=1, le=10_000, description="Trees of the random forest")
    forest_leaf: int = Field(default=2, ge=1, le=1000, description="Fewest samples in a leaf of the random forest")
    svm_cost: float = Field(default=1.0, gt=0, le=1e6, description="C of the support vector machine")
    boosting_rounds: int = Field(default=150, ge=1, le=10_000, description="Rounds of gradient boosting")
    boosting_rate: float = Field(default=0.05, gt=0, le=1, description="Learning rate of gradient boosting")
    boosting_leaf: int = Field(default=10, ge=1, le=1000, description="Fewest samples in a leaf of gradient boosting")
    boosting_leaves: int = Field(default=15, ge=2, le=1024, description="Leaves of a tree in gradient boosting")


class NeuralSettings(_Settings):
    """What fitting one neural network takes, given word vectors."""

    seed: int = Field(default=2022, ge=0, le=2**31 - 1, description="Seed of weights, batches and dropout")
    class_weight: ClassWeight = Field(
        default="balanced", description="balanced: classes count alike in the loss; none: samples do"
    )
    network: NetworkSettings = Field(default_factory=NetworkSettings, description="Sizes and regularisation")
    members: int = Field(
        default=3, ge=1, le=20, description="Networks that are fitted and averaged, each with another validation part"
    )
    optimiser: OptimiserSettings = Field(default_factory=OptimiserSettings, description="How networks are fitted")


class TrainingSettings(NeuralSettings):
    """What fitting any model from the features alone takes."""

    words: WordEmbeddingSettings = Field(
        default_factory=WordEmbeddingSettings, description="Word2Vec, fitted again in every fold"
    )
    tabular: TabularSettings = Field(default_factory=TabularSettings, description="Baselines on summary features")
