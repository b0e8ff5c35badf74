"""The names of the zoo's nets, with their input sizes and file formats. Needs no framework."""

# name: the photo's side and the file's extension.
KERAS = {
    "VGG16": (64, ".keras"), "ResNet50": (96, ".keras"), "ResNet50V2": (96, ".h5"), "InceptionV3": (128, ".keras"),
    "Xception": (96, ".keras"), "MobileNet": (96, ".keras"), "MobileNetV2": (96, ".h5"),
    "MobileNetV3Small": (96, ".keras"), "MobileNetV3Large": (96, ".keras"), "DenseNet121": (96, ".keras"),
    "NASNetMobile": (96, ".keras"), "EfficientNetB0": (96, ".keras"), "EfficientNetV2B0": (96, ".keras"),
    "EfficientNetV2S": (96, ".keras"), "ConvNeXtTiny": (96, ".keras"),
}  # fmt: skip

# name: the photo's side; "script" and "dynamo" are PyTorch's two exporters, ".pt" and ".pt2" files that
# `model prepare` exports.
TORCHVISION = {
    "alexnet": (224, "script"), "vgg16": (224, "script"), "squeezenet1_1": (96, "dynamo"), "resnet18": (96, ".pt2"),
    "resnet50": (96, "dynamo"), "densenet121": (96, "script"), "googlenet": (96, "script"),
    "mobilenet_v2": (96, ".pt"), "mobilenet_v3_small": (96, "script"), "mobilenet_v3_large": (96, "dynamo"),
    "shufflenet_v2_x1_0": (96, "script"), "efficientnet_b0": (96, "script"), "efficientnet_v2_s": (96, "dynamo"),
    "regnet_y_400mf": (96, "script"), "convnext_tiny": (96, "script"), "swin_t": (96, "script"),
}  # fmt: skip
TIMM = {
    "efficientnet_lite0": (96, "dynamo"), "efficientnet_b0": (96, "dynamo"), "tf_efficientnetv2_b0": (96, "script"),
    "mobilenetv3_large_100": (96, ".pt2"), "mobilenetv4_conv_small": (96, "dynamo"), "resnet26d": (96, "dynamo"),
    "ecaresnet26t": (96, "script"), "rexnet_100": (96, "script"), "ghostnet_100": (96, "script"),
    "repvgg_a0": (96, "dynamo"), "convnext_tiny": (96, "dynamo"), "convnextv2_atto": (96, "dynamo"),
    "edgenext_xx_small": (96, "script"), "mobilevit_xxs": (96, "dynamo"), "mobilevitv2_050": (96, "script"),
    "vit_tiny_patch16_224": (96, "dynamo"), "deit_tiny_patch16_224": (96, "script"),
    "swin_tiny_patch4_window7_224": (224, "dynamo"), "pvt_v2_b0": (96, "script"), "levit_128s": (224, "script"),
    "fastvit_t8": (96, "script"), "resmlp_12_224": (224, "script"), "poolformer_s12": (96, "script"),
    "tf_efficientnet_lite0": (96, "script"), "lcnet_050": (96, "dynamo"), "inception_next_atto": (96, "script"),
}  # fmt: skip
TRANSFORMERS = {
    "ViT": (64, "script"), "DeiT": (64, "dynamo"), "Swin": (64, "script"), "ConvNext": (64, "script"),
    "ConvNextV2": (64, "script"), "MobileViT": (64, "script"), "ResNet": (64, "script"), "RegNet": (64, "script"),
    "Beit": (64, "script"), "MobileNetV2": (64, "script"), "EfficientNet": (64, "script"),
    "PoolFormer": (64, "script"), "Dinov2": (56, "script"),
}  # fmt: skip

# Operator sets of PyTorch's two exporters, and further variants of ONNX files.
SCRIPT = [9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
DYNAMO = [18, 19, 20, 21, 22, 23]
OTHERS = ["onnxsim", "external data", "fp16 inside", "fp16", "QDQ int8", "QOperator int8", "dynamic int8", "channels last",
          "bytes", "open batch", "open sides", "softmax", "unoptimised dynamo", "optimised by ONNX Runtime"]  # fmt: skip
VARIANTS = [*(f"opset {n}, script" for n in SCRIPT), *(f"opset {n}, dynamo" for n in DYNAMO), *OTHERS]


# Nets written by hand with less usual heads, inputs and outputs: the file's extension, or PyTorch's exporter
# and its operator set.
OWN_KERAS = {
    "labels apart, max pooling": ".h5", "photo and age": ".keras", "subclass, attention pooling": "SavedModel",
    "group norm, flatten": ".keras", "LSTM over rows": ".keras", "ECA": ".keras", "crop inside": ".keras",
    "two outputs": ".keras", "transformer": ".keras", "ordinal": ".keras", "Keras 2 layer norm": ".h5",
    "Keras 2 ConvNeXt": ".h5",
}  # fmt: skip
OWN_TORCH = {
    "attention pooling": ("dynamo", 23), "ECA": (".pt2", None), "group norm": ("dynamo", 21), "LSTM over rows": ("script", 17),
    "scripted, softmax inside": (".pt", None), "three outputs": ("script", 13), "flatten, channels last": ("script", 11),
    "open batch": ("dynamo", 23), "bytes, channels last": ("script", 18), "labels apart, max pooling": ("script", 9),
    "ordinal": ("dynamo", 18), "photo and age": ("script", 17), "pyramid pooling": ("script", 17),
    "instance norm, PReLU": ("script", 17), "map and transformer": ("dynamo", 21), "crop inside": ("script", 17),
    "mean with the flipped photo": ("script", 17), "focus, Mish": ("script", 17), "cosine": ("dynamo", 22),
}  # fmt: skip
