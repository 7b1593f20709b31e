"""How a service tells how it is: `app.include(reporting("billing"))`, and monitoring and the API know of it.

    from streamtask_contrib.reporting import router as reporting

Every few seconds each process of the service publishes a `ServiceHealthReport`, every minute a `UsageMetrics`. Nothing
of this can harm the service: what cannot be published within seconds is left out.
"""

from streamtask_contrib.reporting.reporter import Check, Reporter, router

__all__ = ["Check", "Reporter", "router"]
