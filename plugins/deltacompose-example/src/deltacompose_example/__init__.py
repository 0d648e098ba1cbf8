"""Members of this plugin: names, and where each member is. Listing them imports nothing."""

deltacompose_api = 1


def deltacompose_methods() -> dict[str, str]:
    return {"red": "deltacompose_example.red:RED"}
