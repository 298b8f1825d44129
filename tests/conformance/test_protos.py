"""Weft's trimmed copies of Envoy's messages say what Google's say."""

from importlib import metadata, resources
from pathlib import Path

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import ads_pb2, ads_pb2_grpc, discovery_pb2
from google.protobuf import descriptor_pb2
from google.rpc import status_pb2
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parents[2] / "proto" / "proto"
BORROWED = {
    "envoy/config/core/v3/base.proto": base_pb2,
    "envoy/service/discovery/v3/ads.proto": ads_pb2,
    "envoy/service/discovery/v3/discovery.proto": discovery_pb2,
    "google/rpc/status.proto": status_pb2,
}
FIELD_PARTS = ("name", "number", "label", "type", "type_name", "proto3_optional", "json_name")


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    out = tmp_path_factory.mktemp("protos") / "set"
    well_known = str(resources.files("grpc_tools") / "_proto")
    assert (
        protoc.main(["protoc", f"-I{PROTO}", f"-I{well_known}", f"--descriptor_set_out={out}", *BORROWED])
        == 0
    )
    return {it.name: it for it in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file}


def _theirs(path: str) -> descriptor_pb2.FileDescriptorProto:
    theirs = descriptor_pb2.FileDescriptorProto()
    BORROWED[path].DESCRIPTOR.CopyToProto(theirs)
    return theirs


def _by_name(items) -> dict:
    return {it.name: it for it in items}


def _field(message, field) -> dict:
    facts = {part: getattr(field, part) for part in FIELD_PARTS}
    facts["json_name"] = facts["json_name"] or _json_name(field.name)
    in_oneof = field.HasField("oneof_index") and not field.proto3_optional
    facts["oneof"] = message.oneof_decl[field.oneof_index].name if in_oneof else None
    facts["packed"] = field.options.packed if field.options.HasField("packed") else None
    return facts


def _json_name(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(it.capitalize() for it in others)


def _compare_messages(where: str, ours, theirs):
    for name, message in _by_name(ours).items():
        place = f"{where}.{name}"
        assert name in _by_name(theirs), f"{place} is not one of Google's"
        other = _by_name(theirs)[name]
        for field in message.field:
            fields = _by_name(other.field)
            assert field.name in fields, f"{place}.{field.name} is not one of Google's"
            assert _field(message, field) == _field(other, fields[field.name]), f"{place}.{field.name}"
        assert message.options.map_entry == other.options.map_entry, place
        _compare_messages(place, message.nested_type, other.nested_type)
        assert not message.enum_type, f"{place} has an enum: compare it too"


@pytest.mark.parametrize("path", BORROWED)
def test_every_field_that_weft_has_equals_googles(ours, path):
    file, other = ours[path], _theirs(path)
    assert file.message_type or file.service
    assert (file.package, file.syntax) == (other.package, other.syntax)
    _compare_messages(file.package, file.message_type, other.message_type)
    assert not file.enum_type, "compare enums too"


def test_every_method_that_weft_has_equals_googles(ours):
    compared = 0
    for path, file in ours.items():
        services = _by_name(_theirs(path).service)
        for service in file.service:
            methods = _by_name(services[service.name].method)
            for method in service.method:
                other = methods[method.name]
                for part in ("input_type", "output_type", "client_streaming", "server_streaming"):
                    assert getattr(method, part) == getattr(other, part), (
                        f"{service.name}.{method.name}: {part}"
                    )
                compared += 1
    assert compared == 2


def test_the_client_of_these_tests_speaks_googles_messages():
    published = {str(it.locate()) for it in metadata.files("xds-protos")}
    for module in (*BORROWED.values(), ads_pb2_grpc):
        assert module.__file__ in published
