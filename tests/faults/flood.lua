-- For wrk: sends pictures so often a second, whatever becomes of them, and writes down what does.
-- wrk --threads 1 … -s flood.lua URL -- <folder of forms 0, 1, …> <how many> <a second> <seconds> <ledger>

local ffi = require("ffi")
ffi.cdef("struct moment { long seconds; long nanoseconds; }; int clock_gettime(int clock, struct moment *out);")
local moment = ffi.new("struct moment")
local heads, tails, sent, number = {}, {}, {}, -1 -- wrk asks for one to look at, which it does not send
local count, interval, due, last, ledger

local function now()
  ffi.C.clock_gettime(1, moment)
  return tonumber(moment.seconds) + tonumber(moment.nanoseconds) / 1e9
end

function init(arguments)
  count = tonumber(arguments[2])
  wrk.headers["Content-Type"] = "multipart/form-data; boundary=x"
  wrk.headers["X-Request-ID"] = "request-"
  for index = 0, count - 1 do
    local file = assert(io.open(arguments[1] .. "/" .. index, "rb"))
    heads[index], tails[index] = wrk.format("POST", nil, nil, file:read("*a")):match("^(.-request%-)(.*)$")
    file:close()
  end
  interval = 1 / arguments[3]
  due = now()
  last = due + arguments[4]
  ledger = assert(io.open(arguments[5], "w"))
end

function delay()
  due = due + interval
  if math.max(due, now()) > last then
    return 1e6 -- milliseconds, which is for ever
  end
  return math.max(0, due - now()) * 1000
end

function request()
  number = number + 1
  sent[number] = now()
  if number > 0 then ledger:write("asked\n") end
  return heads[number % count] .. number .. tails[number % count]
end

function response(status, headers, body)
  local id = headers["X-Request-ID"] or ""
  local asked = tonumber(id:match("^request%-(%d+)$"))
  ledger:write(string.format("%d\t%.6f\t%.6f\t%d\t%s\t%s\n", asked or 0, sent[asked] or 0,
    now() - (sent[asked] or 0), status, headers["Retry-After"] or "", (body:gsub("%s+", " "))))
  if asked then sent[asked] = nil end
end
