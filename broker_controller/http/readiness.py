"""Whether requests can be taken now. Used by `operations` and `exposition`."""

from broker_controller.http.services import Services


def not_ready(services: Services) -> list[str]:
    """Sentences about why no request can be taken now; [] when it can."""
    problem = services.links.problem
    reasons = [problem] if problem else []
    if not services.fleet.ready:
        reasons.append("the workers have not been asked who they are yet")
    if not reasons and not services.gateway.door.ready:
        reasons.append("this controller is about to leave")
    return reasons
