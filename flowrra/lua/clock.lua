-- What all scripts need: the server's clock, whose times are microseconds, and two at the end of a list.

local function server_now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function as_text(number)
  return string.format('%.0f', number)
end

-- Without a table for its arguments: this is on every task's way.
local function append(list, one, other)
  local length = #list
  list[length + 1] = one
  list[length + 2] = other
end
