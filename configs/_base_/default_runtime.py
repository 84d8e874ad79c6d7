default_scope = "anybev"
runner_type = "Runner"
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=3),
    sampler_seed=None,  # the training loop hands the sampler its epoch and position
    metrics=dict(type="LastMetricsHook"),
    run_facts=dict(type="RunFactsHook"),
    sync_buffers=dict(type="SyncBuffersHook"),  # several processes score and save one model
    bad_samples=dict(type="BadSamplesHook"),
    finite=dict(type="FiniteLossHook"),  # NaN or Inf ends training before it reaches the weights
    stop=dict(type="StopOnSignalHook"),  # SIGTERM, Ctrl-C: checkpoint, then exit
    throughput=dict(type="ThroughputHook"),  # ETA, and what metrics.json says of the training
    status=dict(type="StatusHook", interval_s=10),  # status.json, for `anybev status`
)
# How gradients travel between processes; see docs/precision.md.
ddp = dict(bucket_cap_mb=25, gradient_compression="none", overlap=True)
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0))
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=True)
log_level = "INFO"
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="Visualizer", vis_backends=vis_backends)
randomness = dict(seed=0)
load_from = None
resume = False
