-- For wrk: posts the lines of the file $BODIES to /vectorize in turn, and prints what came of it as JSON.
local bodies, next_body = {}, 0
for line in io.lines(os.getenv("BODIES")) do bodies[#bodies + 1] = line end

function request()
  next_body = next_body % #bodies + 1
  return wrk.format("POST", "/vectorize", { ["Content-Type"] = "application/json" }, bodies[next_body])
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.status + errors.connect + errors.read + errors.write + errors.timeout
  local answered = summary.requests - errors.status
  io.write(string.format('{"per_second": %f, "p99_ms": %f, "failed": %d}\n',
    answered / summary.duration * 1e6, latency:percentile(99) / 1e3, failed))
end
