"""A strict Content-Security-Policy, which the progress element satisfies. Django 6 has its own middleware for this."""


class ContentSecurityPolicyMiddleware:
    """Allow every page to load files from this site only."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        """Add the policy, unless the response has one."""
        response = self.get_response(request)
        response.headers.setdefault("Content-Security-Policy", "default-src 'self'; img-src data:")
        return response
