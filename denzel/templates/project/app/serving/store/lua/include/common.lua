-- The clock, and commands over long lists.

-- Seconds since 1970 by the server's clock, whatever the clocks of workers are set to.
local function now()
    local time = redis.call('TIME')
    return time[1] + time[2] / 1000000
end

-- A time as it is stored. Lua would write seventeen digits of it, once for each field that has it.
local function stamp(time)
    return string.format('%.6f', time)
end

-- One command for many keys or members costs little more than for one; but Lua passes on some thousands at most.
local function in_bulk(command, key, list)
    for first = 1, #list, 1000 do
        redis.call(command, key, unpack(list, first, math.min(first + 999, #list)))
    end
end
