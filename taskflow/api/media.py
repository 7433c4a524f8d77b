"""How a request announces its body."""

from taskflow.api.problems import UnsupportedMediaType
from taskflow.api.services import ApiRequest


def media_type(request: ApiRequest, *accepted: str) -> str:
    """The one of *accepted* that the body is announced as; raises UnsupportedMediaType, for compressed bodies too."""
    announced = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if announced not in accepted:
        raise UnsupportedMediaType(detail=f"the body must be {' or '.join(accepted)}")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType(detail="the body must not be compressed")
    return announced
