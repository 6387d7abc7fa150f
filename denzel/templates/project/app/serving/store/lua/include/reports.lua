-- What the delivery of a task that runs has reported: progress, and output at `OUTPUT .. task_id`. Changes of a task
-- that somebody follows are announced on a channel of its own.

local function announce_change(task_id, followed)
    if followed then
        redis.call('PUBLISH', CHANGES .. task_id, '')
    end
end

local function void_reports(task_id)
    local task = TASK .. task_id
    redis.call('HINCRBY', task, 'restarts', 1)
    redis.call('HDEL', task, 'started', 'progress', 'reports', 'outputs', 'outputs_from', 'output_bytes')
    redis.call('DEL', OUTPUT .. task_id)
end
