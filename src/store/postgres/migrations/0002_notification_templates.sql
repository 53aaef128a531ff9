-- What users can be notified of by what agents report. Ids, names, groups and kinds are the original's, where existing
-- preferences and tools look for them; the texts are our own. `{{base_url}}` is the access URL.

INSERT INTO notification_templates (id, name, title_template, body_template, actions, "group", kind, enabled_by_default)
VALUES
    (
        'a9d027b4-ac49-4fb1-9f6d-45af15f64e7a', 'Workspace Out Of Memory',
        'Memory is running out in {{.Labels.workspace}}',
        'The workspace **{{.Labels.workspace}}** has used {{.Labels.threshold}} or more of its memory for some time.',
        CAST('[{"label":"Open workspace","url":"{{base_url}}/@{{.UserUsername}}/{{.Labels.workspace}}"}]' AS jsonb),
        'Workspace Events', 'system', true
    ),
    (
        'f047f6a3-5713-40f7-85aa-0394cce9fa3a', 'Workspace Out Of Disk',
        'Disk space is running out in {{.Labels.workspace}}',
        'Volumes of the workspace **{{.Labels.workspace}}** are filled beyond their limit: '
            || '{{range .Data.volumes}}`{{.path}}` ({{.threshold}}) {{end}}',
        CAST('[{"label":"Open workspace","url":"{{base_url}}/@{{.UserUsername}}/{{.Labels.workspace}}"}]' AS jsonb),
        'Workspace Events', 'system', true
    ),
    (
        'bd4b7168-d05e-4e19-ad0f-3593b77aa90f', 'Task Working',
        '{{.Labels.task}} is being worked on',
        'Work on the task **{{.Labels.task}}** goes on in the workspace **{{.Labels.workspace}}**.',
        CAST('[{"label":"Open task","url":"{{base_url}}/tasks/{{.UserUsername}}/{{.Labels.workspace}}"},'
            || '{"label":"Open workspace","url":"{{base_url}}/@{{.UserUsername}}/{{.Labels.workspace}}"}]' AS jsonb),
        'Task Events', 'system', true
    ),
    (
        'd4a6271c-cced-4ed0-84ad-afd02a9c7799', 'Task Idle',
        '{{.Labels.task}} waits for you',
        'The task **{{.Labels.task}}** in the workspace **{{.Labels.workspace}}** waits for input.',
        CAST('[{"label":"Open task","url":"{{base_url}}/tasks/{{.UserUsername}}/{{.Labels.workspace}}"},'
            || '{"label":"Open workspace","url":"{{base_url}}/@{{.UserUsername}}/{{.Labels.workspace}}"}]' AS jsonb),
        'Task Events', 'system', true
    ),
    (
        '8c5a4d12-9f7e-4b3a-a1c8-6e4f2d9b5a7c', 'Task Completed',
        '{{.Labels.task}} is done',
        'The task **{{.Labels.task}}** in the workspace **{{.Labels.workspace}}** came to its end.',
        CAST('[{"label":"Open task","url":"{{base_url}}/tasks/{{.UserUsername}}/{{.Labels.workspace}}"},'
            || '{"label":"Open workspace","url":"{{base_url}}/@{{.UserUsername}}/{{.Labels.workspace}}"}]' AS jsonb),
        'Task Events', 'system', true
    ),
    (
        '3b7e8f1a-4c2d-49a6-b5e9-7f3a1c8d6b4e', 'Task Failed',
        '{{.Labels.task}} did not succeed',
        'The task **{{.Labels.task}}** in the workspace **{{.Labels.workspace}}** ended with a failure; its log says why.',
        CAST('[{"label":"Open task","url":"{{base_url}}/tasks/{{.UserUsername}}/{{.Labels.workspace}}"},'
            || '{"label":"Open workspace","url":"{{base_url}}/@{{.UserUsername}}/{{.Labels.workspace}}"}]' AS jsonb),
        'Task Events', 'system', true
    );
