-- For wrk: posts a file as a browser's form does, and prints what came of it as JSON.
-- wrk … -s predict.lua URL -- <file> <field> [token]

local message

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  wrk.body = '--part\r\nContent-Disposition: form-data; name="' .. arguments[2] .. '"; filename="image.jpg"\r\n'
    .. "Content-Type: image/jpeg\r\n\r\n" .. file:read("*a") .. "\r\n--part--\r\n"
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "multipart/form-data; boundary=part"
  if arguments[3] then
    wrk.headers["Authorization"] = "Bearer " .. arguments[3]
  end
  message = wrk.format()
end

function request()
  return message
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format(
    '{"rate": %.2f, "failed": %d, "p50": %.3f, "p99": %.3f}\n',
    (summary.requests - errors.status) / summary.duration * 1e6, failed,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000
  ))
end
