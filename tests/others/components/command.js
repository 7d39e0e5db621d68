// A command: says its arguments and a variable, and fails if it is told to.
import { getArguments, getEnvironment } from 'wasi:cli/environment@0.2.10';

export const run = {
  run() {
    const [, ...told] = getArguments();
    const variables = new Map(getEnvironment());
    console.log(['arguments:', ...told].join('\n'));
    console.log(`colour: ${variables.get('COLOUR')}`);
    console.error('on stderr');
    if (told.includes('fail')) {
      throw undefined;
    }
  },
};
