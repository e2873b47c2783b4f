-- The server's clock. Times are microseconds.

local function server_now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function as_text(number)
  return string.format('%.0f', number)
end
