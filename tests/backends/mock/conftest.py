"""The fixtures of this folder's tests."""

from played_guests import made as made
from replayed import kvm_recorder as kvm_recorder
from replayed import opened as opened
from replayed import recorded as recorded
from replayed import recorder as recorder
