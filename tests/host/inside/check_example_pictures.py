"""Example Picture gives what Load Image gives of the same file."""

import shutil

import folder_paths
import torch
from setting import refused
from story_identity.nodes.example_picture import ExamplePictureNode

import nodes


def check_each_picture_is_as_load_image_reads_it():
    (choice,) = ExamplePictureNode.define_schema().inputs
    files = {path.stem.replace("_", " "): path for path in ExamplePictureNode.weight_files()}
    assert choice.options == list(files)
    assert len(files) == 7
    for name, path in files.items():
        shutil.copy(path, folder_paths.get_input_directory())
        (image,) = ExamplePictureNode.execute(name).result
        assert torch.equal(image, nodes.LoadImage().load_image(path.name)[0])


def check_a_name_that_is_no_picture_is_refused():
    words = 'there is no picture "../secret". There are "man 1", '
    refused(lambda: ExamplePictureNode.execute("../secret"), words)
