"""Pipeline parallelism: splits a model into stages that run on different devices."""
