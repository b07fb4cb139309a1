"""HTTP without the routes: bodies, problems, request options, OpenAPI."""
