/* The model named on a command line. */
#include "engine/base/error.h"
#include "engine/model/hub.h"
#include "presets/preset.h"
#include "tui/cli/debug.h"

char *cli_model_folder(const char *name, struct error *err)
{
    if (name)
        return hub_resolve(name, err);
    char *folder = preset_model_folder();
    if (!folder)
        fail(err, "the embedded model was not found; set ATTNSCOPE_PRESETS to the presets folder, "
                  "or name a model folder");
    return folder;
}
