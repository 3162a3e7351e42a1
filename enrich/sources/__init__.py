"""The sources of the cluster's objects: the Kubernetes API, or a folder of manifests."""
